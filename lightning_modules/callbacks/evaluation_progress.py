"""The progress bar of an evaluation: the benchmark, and the accuracy so far."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from lightning.pytorch.callbacks import RichProgressBar


@runtime_checkable
class MeasuresAccuracy(Protocol):
    """The part of `lightning_modules.evaluate.EvaluateModule` that the bar reads."""

    def running_accuracy(self, benchmark: str) -> float:
        """Share of right answers so far, 0 to 1."""


class EvaluationProgress(RichProgressBar):
    """Lightning's bar over this device's batches, with the accuracy so far on the current benchmark."""

    def on_test_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self.progress is not None and self.test_progress_bar_id is not None and batch.benchmark:
            share = pl_module.running_accuracy(batch.benchmark)
            self.progress.update(self.test_progress_bar_id, description=f"[white]{batch.benchmark} {share:.1%}")
        super().on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
