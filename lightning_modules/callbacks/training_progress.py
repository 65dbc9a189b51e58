"""The progress bar of training: the optimizer step, and how many there are."""

from __future__ import annotations

import math
from typing import Any

from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import ProcessingSpeedColumn
from rich.progress import BarColumn

SHORT_NAMES = {"completions/mean_length": "length", "val/accuracy": "val"}
"""The bar's names of metrics whose names in the logs are long."""


class TrainingProgress(RichProgressBar):
    """Lightning's bar over an epoch's micro-batches, headed by the optimizer step instead of the epoch's number.

    Learning rate and tables are per optimizer step. A run that `trainer.max_steps` ends has no number of epochs, and
    Lightning's own heading is then "Epoch 6/-2".
    """

    def _get_train_description(self, current_epoch: int) -> str:
        trainer = self.trainer
        steps = trainer.estimated_stepping_batches
        return f"step {trainer.global_step}" + ("" if math.isinf(steps) else f"/{steps}")

    @property
    def total_train_batches(self) -> int | float:
        """Micro-batches of this epoch. Lightning counts `max_steps` as micro-batches, and leaves out those before a
        resumed run."""
        trainer = self.trainer
        if trainer.max_steps < 0:
            return trainer.num_training_batches
        done = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        to_come = (trainer.max_steps - trainer.global_step) * trainer.accumulate_grad_batches
        return min(trainer.num_training_batches, done + to_come)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.progress is not None and self.train_progress_bar_id is not None:
            heading = self._get_train_description(trainer.current_epoch)
            self.progress.update(self.train_progress_bar_id, description=heading)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def get_metrics(self, trainer: Any, pl_module: Any) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        return {SHORT_NAMES.get(name, name): f"{value:.3g}" for name, value in metrics.items() if name != "v_num"}

    def configure_columns(self, trainer: Any) -> list[Any]:
        """No micro-batches per second, which are not comparable between runs, and a short bar: 80 columns are few."""
        columns = [c for c in super().configure_columns(trainer) if not isinstance(c, ProcessingSpeedColumn)]
        for column in columns:
            if isinstance(column, BarColumn):
                column.bar_width = 8
        return columns
