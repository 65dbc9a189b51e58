"""Changes to the trainer's own plugins that every module of this project needs."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO

from lightning_modules.checkpoint_io import SafeCheckpointIO


def adapt_plugins(trainer: Trainer) -> None:
    """Make checkpoints safe and leave batches as they are.

    Done by the module in `setup`, not by the command line, so that a `Trainer` in a script behaves the same. Lightning
    offers no other place: a module cannot bring plugins along.

    - Lightning's plain checkpoint files are unpickled and may be partial; `SafeCheckpointIO` replaces the default. A
      reader and writer that the user chose stays.
    - Precision plugins for other than 32 bits walk through every batch to convert its tensors, and fail at the first
      frozen record. Batches hold samples, and the student converts what it embeds.
    """
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = SafeCheckpointIO()
    trainer.precision_plugin.convert_input = _unchanged  # type: ignore[assignment]


def _unchanged(batch: Any) -> Any:
    return batch
