"""A report of the samples of optimizer steps whose loss, KL, gradient norm or response length jumps."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, Protocol

from lightning.pytorch import Callback
from torch import Tensor

from avrt.config.numbers import PositiveFloat, PositiveInt

THRESHOLDS = {"loss": 10.0, "kl": 10.0, "grad_norm": 10.0, "completions/mean_length": 10.0}
"""Default of `SpikeReport`: no step of the demo's runs is above it."""

MIN_STEPS = 20
"""Steps before the first one that is judged: the median of fewer moves too much."""

STANDARD_DEVIATION = 1.4826
"""The standard deviation of normally distributed values / their median absolute deviation."""

MIN_RELATIVE_SCALE, MIN_SCALE = 0.1, 1e-3
"""The least deviation that counts as usual, relative to the median and absolute: a curve that hardly moves has none."""

SHOWN_SAMPLES = 32
"""Sample ids in one report."""


class SampleValues(Protocol):
    """The part of `lightning_modules.step_metrics.SampleValues` that the callback uses."""

    @property
    def ids(self) -> list[str]: ...

    @property
    def values(self) -> Mapping[str, Tensor | float]: ...


class FinishedStep(Protocol):
    """The part of `lightning_modules.step_metrics.FinishedStep` that the callback uses."""

    @property
    def number(self) -> int: ...

    @property
    def values(self) -> Mapping[str, float]: ...

    @property
    def samples(self) -> Sequence[SampleValues]: ...


class ReportingModule(Protocol):
    """The part of a training module that the callback uses (`lightning_modules.training.TrainingModule`)."""

    gather_texts: Callable[[Sequence[str]], list[str]]
    print: Callable[[str], None]


class SpikeReport(Callback):
    """Prints a line with the sample ids for every optimizer step in which a metric jumps.

    A value x of a metric is a spike if ``|x - m| > threshold * s``, with m the median of the last `window` steps and s
    their usual deviation: 1.4826 times the median absolute deviation (for normally distributed values, the standard
    deviation), but at least m / 10 and 0.001. Unlike mean and standard deviation, neither follows the spikes. With a
    threshold of 10 a positive metric must at least double. Values that are not finite are reported as skipped steps.

    The samples are sorted by their own value of the metric, largest first; the gradient norm has none, and they are
    sorted by their loss. A value is of all samples of one micro-batch on one device: `data.batch_size` of them.

    Args:
        thresholds: for each metric to watch, under its name in the curves, the deviations beyond which it is a spike.
        window: optimizer steps that a value is compared with. The first 20 are not judged.
        patience: end the run with an error after so many steps in a row with a spike; None only reports.
    """

    def __init__(
        self,
        thresholds: dict[str, PositiveFloat] | None = None,
        window: PositiveInt = 100,
        patience: PositiveInt | None = None,
    ) -> None:
        super().__init__()
        self.thresholds = THRESHOLDS if thresholds is None else thresholds
        if window < MIN_STEPS:
            raise ValueError(f"window must be at least {MIN_STEPS}, got {window}")
        self.window = window
        self.patience = patience
        self.recent: dict[str, deque[float]] = {name: deque(maxlen=window) for name in self.thresholds}
        self.in_a_row = 0
        self.steps_seen = 0

    def on_optimizer_step_end(self, module: ReportingModule, step: FinishedStep) -> None:
        """Judge a step; called by the module on all devices, with the same values.

        Raises:
            ValueError: the last `patience` steps all had spikes.
        """
        spikes = {}
        for name, recent in self.recent.items():
            value = step.values.get(name, math.nan)
            if not math.isfinite(value):
                continue
            if len(recent) >= MIN_STEPS and is_spike(value, recent, self.thresholds[name]):
                spikes[name] = value
                self._report(module, step, name, value)
            recent.append(value)
        self.steps_seen += 1
        if self.steps_seen == MIN_STEPS:
            for name in sorted(name for name, recent in self.recent.items() if not recent and name not in THRESHOLDS):
                module.print(
                    f"lightning_modules.callbacks.SpikeReport: thresholds has {name!r}, and no curve is called so"
                )
        self.in_a_row = self.in_a_row + 1 if spikes else 0
        if self.patience is not None and self.in_a_row >= self.patience:
            raise ValueError(
                f"step {step.number}: {self.in_a_row} optimizer steps in a row had spikes, the last of "
                f"{' and '.join(spikes)}; look at the samples named above, lower model.optimizer.learning_rate, or "
                "raise thresholds or patience of lightning_modules.callbacks.SpikeReport"
            )

    def _report(self, module: ReportingModule, step: FinishedStep, name: str, value: float) -> None:
        key = name if any(name in part.values for part in step.samples) else "loss"
        found = [(part, float(part.values[key])) for part in step.samples if key in part.values]
        # Parts of other devices come as text.
        parts = [json.loads(text) for text in module.gather_texts([json.dumps([v, p.ids]) for p, v in found])]
        shown = [
            f"{sample_id} ({own:.3g})"
            for own, ids in sorted(parts, key=lambda part: abs(part[0]), reverse=True)
            for sample_id in ids
        ]
        more = f" and {len(shown) - SHOWN_SAMPLES} more" if len(shown) > SHOWN_SAMPLES else ""
        recent = self.recent[name]
        module.print(
            f"step {step.number}: spike of {name}: {value:.4g}, and the median of the last {len(recent)} steps is "
            f"{median(recent):.4g}; its samples, with their {key}: {', '.join(shown[:SHOWN_SAMPLES])}{more}"
        )

    def state_dict(self) -> dict[str, Any]:
        return {"recent": {name: list(values) for name, values in self.recent.items()}, "in_a_row": self.in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, recent in self.recent.items():
            recent.extend(state_dict["recent"].get(name, ()))
        self.in_a_row = state_dict["in_a_row"]


def is_spike(value: float, recent: Sequence[float] | deque[float], threshold: float) -> bool:
    """Whether a value is further from the median of recent ones than `threshold` times their usual deviation."""
    middle = median(recent)
    usual = STANDARD_DEVIATION * median(abs(x - middle) for x in recent)
    return abs(value - middle) > threshold * max(usual, MIN_RELATIVE_SCALE * abs(middle), MIN_SCALE)
