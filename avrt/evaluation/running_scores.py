"""Scores of an evaluation while it runs, over all processes, with torchmetrics.

For progress bars and loggers. The numbers of a finished run come from its records (`avrt.evaluation.scoring`), which do
not depend on how items were divided between processes; these agree with them once every item has been seen once.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torchmetrics import MeanMetric, MetricCollection

from avrt.evaluation.records.record import Record


class RunningScores(MetricCollection):
    """Means over the scored records seen so far, synchronized by torchmetrics when computed.

    Keys of `compute`: ``accuracy`` (strict), ``official_accuracy`` (over the items that the benchmark's rule counts),
    ``instruction_format_errors``, ``logic_errors``, ``no_reply`` (shares of all items), ``completion_tokens`` (mean).
    """

    def __init__(self, prefix: str | None = None) -> None:
        # "ignore" drops NaN, the mark of "does not apply"; without any value a mean is 0/0, which is NaN again.
        names = (
            "accuracy",
            "official_accuracy",
            "instruction_format_errors",
            "logic_errors",
            "no_reply",
            "completion_tokens",
        )
        super().__init__(
            {name: MeanMetric(nan_strategy="ignore") for name in names}, prefix=prefix, compute_groups=False
        )

    def add(self, records: Iterable[Record]) -> None:
        """Count scored records.

        Raises:
            ValueError: a record is not scored yet.
        """
        for record in records:
            if record.correct_strict is None:
                raise ValueError(f"record {record.id!r} is not scored; see avrt.evaluation.scoring.grade_record")
            values = {
                "accuracy": record.correct_strict,
                "official_accuracy": record.correct_official,
                "instruction_format_errors": record.error_type == "instruction_format",
                "logic_errors": record.error_type == "logic",
                "no_reply": record.error_type == "no_reply",
                "completion_tokens": record.completion_tokens,
            }
            for name, value in values.items():
                if value is not None:
                    self._metric(name).update(torch.tensor(float(value), dtype=torch.float32))

    def _metric(self, name: str) -> MeanMetric:
        metric = self[name]
        assert isinstance(metric, MeanMetric)
        return metric

    def accuracy_here(self) -> float:
        """The accuracy over what this process has counted; NaN before the first. Waits for no other process."""
        metric = self._metric("accuracy")
        return float(metric.mean_value / metric.weight)

    def shares(self) -> dict[str, float]:
        """The means as numbers; NaN where nothing was counted."""
        computed: dict[str, Tensor] = self.compute()
        return {name: float(value) for name, value in computed.items()}
