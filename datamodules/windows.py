"""The samples of each optimizer step, their order, and a loader that resumes exactly at any optimizer step.

The order of an epoch is a permutation of the data set that depends on (seed, epoch) alone. It is cut into *windows*:
all prompts of one optimizer step over all devices. Device r of W takes every W-th prompt of a window. So the samples of
a step depend neither on the number of workers nor, for an equal window, on the number of devices.

A window reaches the module as micro-batches that all carry the whole window, because GRPO rolls a window out at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Dataset

from avrt.model.encoding import Prompt
from datamodules.workers import read_batches


@dataclass(frozen=True)
class Window:
    """This device's part of one optimizer step's prompts.

    Attributes:
        number: windows before this one since the run began; the same on all devices.
        epoch: passes over the data set before this one.
        prompts: all prompts of the window on this device, micro-batch by micro-batch.
    """

    number: int
    epoch: int
    prompts: list[Prompt]


@dataclass(frozen=True)
class MicroBatch:
    """The prompts of one `training_step`: ``start`` to ``stop`` of a window.

    Attributes:
        iteration: passes over the window before this one (GRPO's `num_iterations`).
        first: the first micro-batch of the window that this process sees.
        last: an optimizer step follows.
    """

    window: Window
    start: int
    stop: int
    iteration: int
    first: bool
    last: bool

    @property
    def prompt_slice(self) -> slice:
        """The micro-batch's place among the window's prompts."""
        return slice(self.start, self.stop)

    @property
    def prompts(self) -> list[Prompt]:
        return self.window.prompts[self.prompt_slice]

    def rows(self, num_generations: int) -> slice:
        """The micro-batch's place among the window's responses, `num_generations` to a prompt."""
        return slice(self.start * num_generations, self.stop * num_generations)


class WindowLoader:
    """A sized, resumable loader of micro-batches; one pass is one epoch.

    Args:
        dataset: encoded samples by index.
        micro_batch_size: prompts per device and `training_step`.
        micro_batches: `training_step`s per optimizer step (`trainer.accumulate_grad_batches`).
        num_iterations: optimizer steps taken on each window.
        rank, world_size: this device among all.
        seed, shuffle: the order of every epoch; without `shuffle` it is the data set's own.
        num_workers: processes that read and encode ahead; 0 reads in the training process.
        prefetch: see `datamodules.workers.read_batches`.
        fingerprint: identifies the data; a run does not resume on other data.
        allow_changes: resume even on other data or in another order.
    """

    def __init__(
        self,
        dataset: Dataset[Prompt],
        *,
        micro_batch_size: int,
        micro_batches: int = 1,
        num_iterations: int = 1,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        shuffle: bool = True,
        num_workers: int = 0,
        prefetch: int = 2,
        fingerprint: str = "",
        allow_changes: bool = False,
    ) -> None:
        self.dataset = dataset
        self.micro_batch_size = micro_batch_size
        self.micro_batches = micro_batches
        self.num_iterations = num_iterations
        self.rank = rank
        self.world_size = world_size
        self.seed = seed
        self.shuffle = shuffle
        self.num_workers = num_workers
        self.prefetch = prefetch
        self.fingerprint = fingerprint
        self.allow_changes = allow_changes
        self._steps_done = 0
        size = len(dataset)  # type: ignore[arg-type]
        if size < self.window_size:
            raise ValueError(
                f"the training set has {size} samples, fewer than the {self.window_size} prompts of one optimizer step "
                f"({micro_batch_size} per device x {micro_batches} accumulated x {world_size} devices); lower "
                "data.prompts_per_step, data.batch_size or trainer.accumulate_grad_batches"
            )

    @property
    def window_size(self) -> int:
        """Prompts of one window over all devices."""
        return self.micro_batch_size * self.micro_batches * self.world_size

    @property
    def windows_per_epoch(self) -> int:
        """Whole windows in one pass; samples left over are skipped (different ones in every epoch)."""
        return len(self.dataset) // self.window_size  # type: ignore[arg-type]

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass."""
        return self.windows_per_epoch * self.num_iterations

    def __len__(self) -> int:
        """Micro-batches in one pass."""
        return self.steps_per_epoch * self.micro_batches

    def order(self, epoch: int) -> list[int]:
        """The data set's indices in the order of an epoch, the same on all devices."""
        size = len(self.dataset)  # type: ignore[arg-type]
        if not self.shuffle:
            return list(range(size))
        generator = torch.Generator().manual_seed((self.seed << 20) + epoch)
        return torch.randperm(size, generator=generator).tolist()

    def __iter__(self) -> Iterator[MicroBatch]:
        # A run may have stopped between two steps on one window: the window comes again for the remaining steps.
        windows_done, iterations_done = divmod(self._steps_done, self.num_iterations)
        epoch, first_window = divmod(windows_done, self.windows_per_epoch)
        order = self.order(epoch)
        step = self.micro_batch_size
        batches = []
        for w in range(first_window, self.windows_per_epoch):
            mine = order[w * self.window_size : (w + 1) * self.window_size][self.rank :: self.world_size]
            batches += [mine[i : i + step] for i in range(0, len(mine), step)]
        stream = read_batches(self.dataset, batches, self.num_workers, self.prefetch)
        for w in range(first_window, self.windows_per_epoch):
            prompts = [prompt for _ in range(self.micro_batches) for prompt in next(stream)]
            window = Window(epoch * self.windows_per_epoch + w, epoch, prompts)
            for iteration in range(iterations_done, self.num_iterations):
                for m in range(self.micro_batches):
                    last = m + 1 == self.micro_batches
                    if last:
                        # A checkpoint after this micro-batch's optimizer step must resume behind it.
                        self._steps_done = window.number * self.num_iterations + iteration + 1
                    first = m == 0 and iteration == iterations_done
                    yield MicroBatch(window, m * step, (m + 1) * step, iteration, first=first, last=last)
            iterations_done = 0

    def state_dict(self) -> dict[str, Any]:
        return {
            "steps_done": self._steps_done,
            "fingerprint": self.fingerprint,
            "seed": self.seed,
            "shuffle": self.shuffle,
            "window_size": self.window_size,
            "micro_batches": self.micro_batches,
            "num_iterations": self.num_iterations,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken.

        Raises:
            ValueError: the data, the seed, or how prompts make up an optimizer step has changed since. Changes of the
                first two can be allowed.
        """
        for key, what in (
            ("fingerprint", "data.train points to other shards than the checkpoint's run read"),
            ("seed", "data.seed differs from the checkpoint's"),
            ("shuffle", "data.shuffle differs from the checkpoint's"),
            (
                "window_size",
                "an optimizer step takes another number of prompts (data.prompts_per_step, or data.batch_size x "
                "trainer.accumulate_grad_batches x devices)",
            ),
            # Lightning counts the micro-batches of an epoch.
            (
                "micro_batches",
                "trainer.accumulate_grad_batches differs from the checkpoint's",
            ),
            ("num_iterations", "model.num_iterations differs from the checkpoint's"),
        ):
            order = key in ("fingerprint", "seed", "shuffle")
            if state[key] == getattr(self, key) or (order and self.allow_changes):
                continue
            allow = "set model.resume_with_changes to true, " if order else ""
            raise ValueError(
                f"cannot resume: {what} ({state[key]!r} then, {getattr(self, key)!r} now). Restore it, {allow}or "
                "start a new run from the weights alone (export the checkpoint and set model.student.path)"
            )
        self._steps_done = state["steps_done"]
