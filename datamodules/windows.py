"""The samples of each optimizer step, their order, and a loader that resumes exactly at any optimizer step.

The endless sequence of samples (`datamodules.order`) is cut into *windows*: all prompts of one optimizer step over all
devices. A window may begin in one pass over the data and end in the next, so no sample is left out. Device r of W takes
every W-th prompt of a window. So the samples of a step depend neither on the number of workers nor, for an equal
window, on the number of devices.

A window reaches the module as micro-batches that all carry the whole window, because GRPO rolls a window out at once.

With dynamic sampling a window may draw further prompts, the next ones of the sequence; the next window begins after
them. So the samples of a step then depend on what the policy answered before, and on the number of devices.

Where responses are sampled ahead of training, a window's prompts are looked at before the window begins. They count
when it does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from avrt.model.encoding import Prompt
from datamodules.damage import DamagedSamples, Replaced
from datamodules.order import SampleOrder
from datamodules.streaming import ItemReader
from datamodules.workers import read_batches

Part = tuple[list[Prompt | Replaced], list[int]]
"""A micro-batch as the data workers read it, and the epoch of each prompt."""


@dataclass
class Window:
    """This device's part of one optimizer step's prompts.

    Attributes:
        number: windows before this one since the run began; the same on all devices.
        prompts: all prompts of the window on this device, micro-batch by micro-batch.
        epochs: of each prompt, the passes over its source before this one.
        read: the next micro-batch of the sequence on this device: prompts and their epochs.
        following: prompts and epochs of the next window, before it begins; None for the last window of a pass. Not for
            windows that `draw`.
    """

    number: int
    prompts: list[Prompt]
    epochs: list[int]
    read: Callable[[], tuple[list[Prompt], list[int]]]
    following: Callable[[], tuple[list[Prompt], list[int]] | None] = lambda: None

    def draw(self, micro_batches: int) -> tuple[list[Prompt], list[int]]:
        """Add the prompts of further micro-batches to the window, and return them with their epochs.

        All devices must draw equally many, within the loader's `max_num_gen_batches`.
        """
        before = len(self.prompts)
        for _ in range(micro_batches):
            prompts, epochs = self.read()
            self.prompts += prompts
            self.epochs += epochs
        return self.prompts[before:], self.epochs[before:]

    def keep(self, numbers: Sequence[int]) -> None:
        """Keep some of the prompts drawn, as many as the window had at first."""
        self.prompts = [self.prompts[i] for i in numbers]
        self.epochs = [self.epochs[i] for i in numbers]


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
    """A sized, resumable loader of micro-batches.

    An epoch is as many whole windows as the samples fill; the next one continues where it ended.

    Args:
        reader: prompts by `datamodules.order.Place`; those that are `datamodules.damage.Replaced` are counted.
        order: the numbers' sequence.
        micro_batch_size: prompts per device and `training_step`.
        micro_batches: `training_step`s per optimizer step (`trainer.accumulate_grad_batches`).
        num_iterations: optimizer steps taken on each window.
        max_num_gen_batches: a window draws at most so many times its prompts, those it begins with included.
        rank, world_size: this device among all.
        num_workers: processes that read and encode ahead; 0 reads in the training process.
        prefetch: see `datamodules.workers.read_batches`.
        fingerprint: identifies the data; a run does not resume on other data.
        permute_options: whether `reader` permutes options; a run does not resume with another setting.
        allow_changes: resume even on other data or in another order.
    """

    def __init__(
        self,
        reader: ItemReader[Any],
        order: SampleOrder,
        *,
        micro_batch_size: int,
        micro_batches: int = 1,
        num_iterations: int = 1,
        max_num_gen_batches: int = 1,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        prefetch: int = 2,
        fingerprint: str = "",
        permute_options: bool = False,
        allow_changes: bool = False,
    ) -> None:
        self.reader = reader
        self.order = order
        self.micro_batch_size = micro_batch_size
        self.micro_batches = micro_batches
        self.num_iterations = num_iterations
        self.max_num_gen_batches = max_num_gen_batches
        self.rank = rank
        self.world_size = world_size
        self.num_workers = num_workers
        self.prefetch = prefetch
        self.fingerprint = fingerprint
        self.permute_options = permute_options
        self.allow_changes = allow_changes
        self.damaged = DamagedSamples()
        self._steps_done = self._steps_before = 0
        """Optimizer steps done behind the micro-batch in training, and before it."""
        self._window_done = False
        """Whether the micro-batch in training is the last one of its window."""
        self._position = 0
        """Where the window in training begins in the sequence."""
        self._drawn = 0
        """Samples of all devices in the windows up to the one in training."""
        if order.size < self.window_size:
            raise ValueError(
                f"the training set has {order.size} samples, fewer than the {self.window_size} prompts of one "
                f"optimizer step ({micro_batch_size} per device x {micro_batches} accumulated x {world_size} devices); "
                "lower data.prompts_per_step, data.batch_size or trainer.accumulate_grad_batches"
            )

    @property
    def window_size(self) -> int:
        """Prompts of one window over all devices."""
        return self.micro_batch_size * self.micro_batches * self.world_size

    @property
    def windows_per_epoch(self) -> int:
        """Whole windows that the samples fill."""
        return self.order.size // self.window_size

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return self.windows_per_epoch * self.num_iterations

    def __len__(self) -> int:
        """Micro-batches in an epoch."""
        return self.steps_per_epoch * self.micro_batches

    def __iter__(self) -> Iterator[MicroBatch]:
        # A run may have stopped between two steps on one window: the window comes again for the remaining steps.
        windows_done, iterations_done = divmod(self._steps_done, self.num_iterations)
        windows = range(windows_done, (windows_done // self.windows_per_epoch + 1) * self.windows_per_epoch)
        step = self.micro_batch_size
        self._drawn = self._next_position
        self.damaged.count = self.damaged.committed
        with closing(self._sequence(len(windows))) as stream:  # a window that is still in use does not keep workers
            seen: deque[Part] = deque()
            for number in windows:
                self._position, self._window_done = self._drawn, False
                self.damaged.begin_window()
                following = partial(self._look_ahead, stream, seen) if number < windows[-1] else lambda: None
                window = Window(number, [], [], partial(self._take, stream, seen), following)
                window.draw(self.micro_batches)
                for iteration in range(iterations_done, self.num_iterations):
                    for m in range(self.micro_batches):
                        last = m + 1 == self.micro_batches
                        self._steps_before = self._steps_done
                        if last:
                            # A checkpoint after this micro-batch's optimizer step must resume behind it.
                            self._steps_done = number * self.num_iterations + iteration + 1
                            self._window_done = self.damaged.window_done = iteration + 1 == self.num_iterations
                        first = m == 0 and iteration == iterations_done
                        yield MicroBatch(window, m * step, (m + 1) * step, iteration, first=first, last=last)
                iterations_done = 0

    def _sequence(self, windows: int) -> Generator[Part]:
        """This device's micro-batches from the position on, enough for so many windows."""
        end = self._position + windows * self.window_size * self.max_num_gen_batches
        mine = self.order.places(self._position, end)[self.rank :: self.world_size]  # windows are multiples of devices
        step = self.micro_batch_size
        parts = [mine[i : i + step] for i in range(0, len(mine), step)]
        stream = read_batches(self.reader, parts, self.num_workers, self.prefetch)
        for part, items in zip(parts, stream, strict=True):
            yield items, [place.epoch for place in part]

    def _take(self, stream: Iterator[Part], seen: deque[Part]) -> tuple[list[Prompt], list[int]]:
        """The next micro-batch, now in training: prompts and their epochs."""
        items, epochs = seen.popleft() if seen else next(stream)
        self._drawn += self.micro_batch_size * self.world_size
        return [self.damaged.take(item) for item in items], epochs

    def _look_ahead(self, stream: Iterator[Part], seen: deque[Part]) -> tuple[list[Prompt], list[int]]:
        """The prompts and epochs of the window after the one in training."""
        while len(seen) < self.micro_batches:
            seen.append(next(stream))
        prompts = [item.prompt if isinstance(item, Replaced) else item for items, _ in seen for item in items]
        return prompts, [epoch for _, epochs in seen for epoch in epochs]

    @property
    def samples_seen(self) -> int:
        """Samples of all devices in the windows up to the one in training: the position in the order."""
        return self._drawn

    @property
    def _next_position(self) -> int:
        """Where the window of the next optimizer step begins. Training on the micro-batch may draw further prompts."""
        return self._drawn if self._window_done else self._position

    @contextmanager
    def before_window(self) -> Iterator[None]:
        """Inside, the state is that of before the window whose first micro-batch is in training: a run that resumes
        with it begins with this window."""
        done = self._steps_done, self._window_done, self.damaged.window_done
        self._steps_done, self._window_done, self.damaged.window_done = self._steps_before, False, False
        try:
            yield
        finally:
            self._steps_done, self._window_done, self.damaged.window_done = done

    def state_dict(self) -> dict[str, Any]:
        return {
            "steps_done": self._steps_done,
            "position": self._next_position,
            **self._settings(),
        }

    def _settings(self) -> dict[str, Any]:
        """The settings that the sequence of samples depends on, and how windows are made of it."""
        return {
            "fingerprint": self.fingerprint,
            "seed": self.order.seed,
            "shuffle": self.order.shuffle,
            "shuffle_shards": self.order.shuffle_shards,
            "weights": self.order.weights,
            "permute_options": self.permute_options,
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
        now = self._settings()
        state = {"permute_options": False, **state}  # checkpoints from before that setting
        for key, what in (
            (
                "fingerprint",
                "data.train points to other shards, or has other lists of ids, than in the checkpoint's run, or the "
                "content of a shard has changed since",
            ),
            ("seed", "data.seed differs from the checkpoint's"),
            ("shuffle", "data.shuffle differs from the checkpoint's"),
            ("shuffle_shards", "data.shuffle_shards differs from the checkpoint's"),
            ("weights", "the weights of data.train's sources differ from the checkpoint's"),
            ("permute_options", "data.permute_options differs from the checkpoint's"),
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
            order = key in ("fingerprint", "seed", "shuffle", "shuffle_shards", "weights", "permute_options")
            if state.get(key) == now[key] or (order and self.allow_changes):
                continue
            allow = "set model.resume_with_changes to true, " if order else ""
            raise ValueError(
                f"cannot resume: {what} ({state.get(key)!r} then, {now[key]!r} now). Restore it, {allow}or "
                "start a new run from the weights alone (export the checkpoint and set model.student.path)"
            )
        self._steps_done = state["steps_done"]
        # Checkpoints of before dynamic sampling have no position: every window drew its own prompts and no more.
        self._position = state.get("position", self._steps_done // self.num_iterations * self.window_size)
        self._drawn, self._window_done = self._position, False
