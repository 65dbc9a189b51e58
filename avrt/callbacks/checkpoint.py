"""Checkpoints of a run: one every so many optimizer steps, the newest few kept, the last complete one found again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint

from avrt.checkpoints import complete_checkpoints

STEP_PATTERN = "step=*.ckpt"


class RunCheckpoint(ModelCheckpoint):
    """Writes ``checkpoints/step=<optimizer steps>.ckpt`` in the logger's folder.

    ``--ckpt_path last`` resumes the newest complete one; the first start of a run, when there is none, begins at step
    0. There is no second copy called "last": a checkpoint of the 7B student is about 110 GB.

    Args:
        every_n_steps: optimizer steps between two checkpoints.
        keep: how many of the newest stay; -1 for all.
        dirpath: where they go; None takes ``checkpoints`` in the logger's folder, or without a logger in
            `trainer.default_root_dir`.
    """

    def __init__(self, every_n_steps: int = 100, keep: int = 2, dirpath: str | None = None) -> None:
        if every_n_steps < 1:
            raise ValueError(f"RunCheckpoint.init_args.every_n_steps must be positive, is {every_n_steps}")
        if keep == 0 or keep < -1:
            raise ValueError(f"RunCheckpoint.init_args.keep must be positive, or -1 for all; is {keep}")
        super().__init__(
            dirpath=dirpath,
            filename="step={step:07d}",
            auto_insert_metric_name=False,
            monitor="step",
            mode="max",
            save_top_k=keep,
            every_n_train_steps=every_n_steps,
            enable_version_counter=False,
            save_on_train_epoch_end=False,
        )

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.dirpath = str(self.folder(trainer))
        super().setup(trainer, pl_module, stage)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """The last step is always saved, here and not at the end of training: by then Lightning has counted an epoch as
        finished that `max_steps` cut off, and a resumed run would leave out the rest of it."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        ends = trainer.global_step == trainer.max_steps
        ends |= trainer.is_last_batch and trainer.current_epoch + 1 == trainer.max_epochs
        if batch.last and ends:
            save_now(trainer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """For a run that something else has stopped."""
        save_now(trainer)

    def folder(self, trainer: Any) -> Path:
        """Where this run's checkpoints lie."""
        if self.dirpath is not None:
            return Path(self.dirpath)
        run = getattr(trainer.logger, "log_dir", None) or trainer.default_root_dir
        return Path(run).absolute() / "checkpoints"

    def _find_last_checkpoints(self, trainer: Any) -> set[str]:
        """What Lightning takes ``--ckpt_path last`` from."""
        return {str(path) for path in complete_checkpoints(self.folder(trainer), STEP_PATTERN)[-1:]}


def save_now(trainer: Any) -> str:
    """Save a checkpoint of this very optimizer step, unless there is one; called on every device. Returns its path."""
    callbacks = [callback for callback in trainer.callbacks if isinstance(callback, ModelCheckpoint)]
    for callback in callbacks:
        if isinstance(callback, RunCheckpoint):
            if callback._last_global_step_saved != trainer.global_step:
                callback._save_topk_checkpoint(trainer, callback._monitor_candidates(trainer))
            return str(callback._last_checkpoint_saved)
    folder = next(
        (c.dirpath for c in callbacks if c.dirpath), Path(trainer.default_root_dir).absolute() / "checkpoints"
    )
    path = str(Path(folder) / "last.ckpt")
    trainer.save_checkpoint(path)
    return path
