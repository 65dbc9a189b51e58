"""Metrics of optimizer steps: sums over micro-batches and devices, time by phase, skipped steps. No trainer needed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor


@dataclass(frozen=True)
class StepReport:
    """The outcome of one optimizer step.

    Attributes:
        grad_norm: norm of all gradients over all devices, before clipping; not finite if the step was skipped.
        learning_rate: the rate that the step used.
    """

    grad_norm: float
    learning_rate: float


@dataclass(frozen=True)
class SampleValues:
    """Metrics of the samples of one micro-batch on this device, by name; `float` of a value waits for the device."""

    ids: list[str]
    values: Mapping[str, Tensor | float]


@dataclass(frozen=True)
class FinishedStep:
    """The metrics of an optimizer step, as callbacks get them.

    Attributes:
        number: optimizer steps so far.
        values: the curves' points by name, over all devices and the same on each.
        samples: of this device, micro-batch by micro-batch.
    """

    number: int
    values: dict[str, float]
    samples: list[SampleValues]


@runtime_checkable
class StepObserver(Protocol):
    """A callback that gets the metrics of every optimizer step, on all devices."""

    def on_optimizer_step_end(self, module: Any, step: FinishedStep) -> None: ...


class StepMetrics:
    """Collects the metrics of the current optimizer step: each is sum of totals / sum of weights.

    Args:
        synchronize: wait for the GPU whenever the clock is read, so that ``seconds/<phase>`` holds the GPU's work in
            that phase. It costs a little speed in every micro-batch, so it is off unless somebody asks for the times:
            the callback `Throughput` switches it on. Without it the clock measures the CPU's side alone: a phase ends
            when its kernels are queued, and their time appears in a later phase that waits for them.
    """

    def __init__(self, synchronize: bool = False) -> None:
        self.synchronize = synchronize
        self.on_phase: Callable[[str], None] = lambda phase: None
        """Called at the beginning of every phase."""
        self.tokens_seen = 0
        """Tokens that the run has worked on so far, over all devices."""
        self._samples: list[SampleValues] = []
        self._sums: dict[str, tuple[Tensor, Tensor]] = {}
        self._largest: dict[str, Tensor] = {}
        self._smallest: set[str] = set()
        self._seconds: dict[str, float] = {}
        self._started: dict[str, float] = {}

    def add(self, name: str, total: Tensor | float, weight: Tensor | float = 1.0) -> None:
        """Add to a metric of the current optimizer step."""
        total = torch.as_tensor(total, dtype=torch.float64).detach()
        weight = torch.as_tensor(weight, dtype=torch.float64).detach()
        before = self._sums.get(name)
        self._sums[name] = (total, weight) if before is None else (before[0] + total, before[1] + weight)

    def note_largest(self, name: str, value: Tensor | float) -> None:
        """Note a value of a metric that is the largest of the current optimizer step."""
        value = torch.as_tensor(value, dtype=torch.float64).detach()
        before = self._largest.get(name)
        self._largest[name] = value if before is None else torch.maximum(before, value)  # nan stays nan

    def note_smallest(self, name: str, value: Tensor | float) -> None:
        """Note a value of a metric that is the smallest of the current optimizer step."""
        self._smallest.add(name)
        self.note_largest(name, -torch.as_tensor(value, dtype=torch.float64))

    def note_samples(self, ids: list[str], values: Mapping[str, Tensor | float]) -> None:
        """Remember metrics of the samples of a micro-batch, for callbacks that name samples."""
        self._samples.append(
            SampleValues(ids, {k: v.detach() if isinstance(v, Tensor) else v for k, v in values.items()})
        )

    def take_samples(self) -> list[SampleValues]:
        """The values noted in the current step; they are forgotten."""
        samples, self._samples = self._samples, []
        return samples

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the time spent inside to ``seconds/<phase>`` of the current step."""
        self.start(phase)
        yield
        self.stop(phase)

    def start(self, phase: str) -> None:
        """Begin to measure a phase that ends with `stop`."""
        self.on_phase(phase)
        self._started[phase] = self._now()

    def stop(self, phase: str) -> None:
        self._seconds[phase] = self._seconds.get(phase, 0.0) + self._now() - self._started.pop(phase)

    def _now(self) -> float:
        if self.synchronize and torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.synchronize()
        return time.perf_counter()

    def finish(
        self, sum_over_devices: Callable[[Tensor], Tensor], largest_of_devices: Callable[[Tensor], Tensor]
    ) -> dict[str, float]:
        """The step's metrics over all devices; the next step begins at zero. All devices must have the same metrics.

        Args:
            sum_over_devices: the sum of a float64 tensor over all devices, on the host.
            largest_of_devices: its largest values, likewise.
        """
        for phase, seconds in self._seconds.items():
            self.add(f"seconds/{phase}", seconds)
        names = sorted(self._sums)
        table = torch.tensor([[float(x) for x in self._sums[name]] for name in names], dtype=torch.float64)
        sums = sum_over_devices(table)
        self._sums, self._seconds = {}, {}
        values = {name: float(total / weight) for name, (total, weight) in zip(names, sums, strict=True) if weight}
        if self._largest:
            names = sorted(self._largest)
            own = torch.tensor([float(self._largest[name]) for name in names], dtype=torch.float64)
            for name, value in zip(names, largest_of_devices(own).tolist(), strict=True):
                if not math.isinf(value):  # infinite where no device has a value
                    values[name] = -value if name in self._smallest else value
            self._largest = {}
        return values | {"num_tokens": float(self.tokens_seen)}


class SkippedSteps:
    """Counts optimizer steps that were skipped because their loss or gradient was not finite.

    Args:
        limit: so many skipped steps in a row end the run.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.total = 0
        self.in_a_row = 0
        self._counted: StepReport | None = None
        self._losses: list[tuple[Tensor, list[str]]] = []

    def note(self, loss: Tensor, sample_ids: list[str]) -> None:
        """Remember a micro-batch of the current step."""
        self._losses.append((loss, sample_ids))

    def counted(self, report: StepReport | None) -> tuple[int, int]:
        """(`total`, `in_a_row`) after a step that `finish` may not have seen yet, for a checkpoint saved before it."""
        if report is None or report is self._counted:
            return self.total, self.in_a_row
        return (self.total, 0) if math.isfinite(report.grad_norm) else (self.total + 1, self.in_a_row + 1)

    def finish(self, report: StepReport | None, step: int, gather: Callable[[Sequence[str]], list[str]]) -> str | None:
        """Count a step; if it was skipped, returns a line that names its samples.

        Args:
            report: what the step did; the same on all devices.
            step: optimizer steps so far.
            gather: texts of this device -> those of all devices. Called on all of them or none.
        """
        losses, self._losses = self._losses, []
        if report is None:
            return None
        self.total, self.in_a_row = self.counted(report)
        self._counted = report
        if math.isfinite(report.grad_norm):
            return None
        broken = gather(_ids(part for part in losses if not torch.isfinite(part[0])))
        what = "the loss is not finite on" if broken else "the gradient is not finite; the step worked on"
        return f"step {step}: {what} {', '.join(broken or gather(_ids(losses)))}; the step is skipped on every device"

    def check(self, step: int) -> None:
        """End the run after `limit` skipped steps in a row; all devices agree, since the norm is over all of them.

        Raises:
            ValueError: so many were skipped.
        """
        if self.in_a_row >= self.limit:
            raise ValueError(
                f"step {step}: {self.in_a_row} optimizer steps in a row were skipped as not finite, so the run learns "
                "nothing; lower model.optimizer.learning_rate, look at the samples named above, or raise "
                "model.max_skipped_steps"
            )

    def check_at_end(self, step: int) -> None:
        """Fail a run too short for `limit` as well, if it has learned nothing.

        Raises:
            ValueError: all steps were skipped.
        """
        if self.total and self.total >= step:
            raise ValueError(
                f"all {self.total} optimizer steps of the run were skipped as not finite; lower "
                "model.optimizer.learning_rate, or look at the samples named above"
            )


def _ids(losses: Iterable[tuple[Tensor, list[str]]]) -> list[str]:
    return [sample_id for _, ids in losses for sample_id in ids]
