"""Throughput, waiting time and memory of training, one value each per optimizer step."""

from __future__ import annotations

import resource
import sys
import time
from typing import Any, Protocol

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

BYTES_PER_GIB = 2**30


class StepMetrics(Protocol):
    """The part of `lightning_modules.step_metrics.StepMetrics` that the callback uses."""

    synchronize: bool

    def add(self, name: str, total: Tensor | float, weight: Tensor | float = 1.0) -> None:
        """Add to a metric of the optimizer step: sum of totals / sum of weights, over micro-batches and devices."""


class MeasuredModule(Protocol):
    """The part of a training module that the callback uses (`lightning_modules.training.TrainingModule`)."""

    device: torch.device
    step_metrics: StepMetrics


class Throughput(Callback):
    """Logs ``throughput/*`` once per optimizer step, for SFT and GRPO, however many micro-batches a step has.

    The time of a step is the time between the ends of two optimizer steps, without validation and checkpoints. It has
    two parts: from the end of a micro-batch to the start of the next the device waits for data, the rest is work. Over
    several devices, counts are summed, times averaged, and memory is that of the fullest device.

    While it is listed, the module's own ``seconds/*`` are measured with the GPU synchronized.

    Metrics (see docs/metrics.md): ``tokens_per_second``, ``samples_per_second``, ``seconds_per_step``,
    ``data_wait_fraction``, ``peak_memory_gib``.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seconds = {"working": 0.0, "waiting": 0.0}
        self._state: str | None = None
        self._since = 0.0

    def _switch(self, state: str | None) -> None:
        """Add the time since the last switch to the state that ends, and enter the next; in None no time is counted."""
        now = time.perf_counter()
        if self._state is not None:
            self._seconds[self._state] += now - self._since
        self._state, self._since = state, now

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.step_metrics.synchronize = True  # type: ignore[union-attr]
        self._seconds = {"working": 0.0, "waiting": 0.0}
        self._state = None
        self._switch("waiting")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._switch("working")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._switch(None)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._switch("waiting" if trainer.state.fn == "fit" else None)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        # Called before the file is written, and nothing is called after: no time is counted until the next micro-batch.
        self._switch(None)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._switch("waiting")
        if batch.last:
            self._log_step(trainer, pl_module, batch)  # type: ignore[arg-type]

    def _log_step(self, trainer: Trainer, module: MeasuredModule, batch: Any) -> None:
        seconds = sum(self._seconds.values())
        # Divided by the sum of seconds / devices, the sum of counts becomes a rate of all devices together.
        seconds_share = seconds / trainer.world_size
        module.step_metrics.add("throughput/tokens_per_second", step_tokens(module, batch), seconds_share)
        module.step_metrics.add("throughput/samples_per_second", len(batch.window.prompts), seconds_share)
        module.step_metrics.add("throughput/seconds_per_step", seconds)
        module.step_metrics.add("throughput/data_wait_fraction", self._seconds["waiting"], seconds)
        memory = torch.tensor(peak_memory_bytes(module.device) / BYTES_PER_GIB, device=module.device)
        if trainer.world_size > 1:
            memory = trainer.strategy.reduce(memory, reduce_op="max")
        module.step_metrics.add("throughput/peak_memory_gib", memory)
        self._seconds = {"working": 0.0, "waiting": 0.0}


def step_tokens(module: Any, batch: Any) -> int:
    """Tokens of the optimizer step that ends with this micro-batch, on this device.

    Counted as in ``num_tokens``: every response (in SFT every trace) with its prompt, media tokens included, although
    the shared prompt of a group is computed only once.
    """
    rollout = getattr(module, "rollout", None)
    if rollout is not None:
        return rollout.generated.tokens
    return sum(len(p.input_ids) + (0 if p.target is None else len(p.target)) for p in batch.window.prompts)


def peak_memory_bytes(device: torch.device) -> int:
    """Peak memory: on a GPU since the last call, on the CPU of this process (without data workers) since it began."""
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return peak
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB
