"""Checkpoints of a run: one every few optimizer steps; the newest ones are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint

from avrt.model.checkpoints import newest, remove, superseded


class RunCheckpoint(ModelCheckpoint):
    """Writes ``checkpoints/step=<optimizer steps>.ckpt`` in the logger's folder.

    ``--ckpt_path last`` resumes the newest complete one, or begins at step 0 if there is none. There is no second copy
    called "last": a checkpoint of the 7B student is about 110 GB.

    Args:
        every_n_steps: optimizer steps between two checkpoints.
        keep: how many of the newest are kept, over any number of resumes; -1 for all.
        dirpath: their folder; None takes ``checkpoints`` in the run's folder (`output_dir`).

    Raises:
        ValueError: `every_n_steps` or `keep` out of range.
    """

    def __init__(self, every_n_steps: int = 50, keep: int = 2, dirpath: str | None = None) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be positive, got {every_n_steps}")
        if keep == 0 or keep < -1:
            raise ValueError(f"keep must be positive, or -1 for all; got {keep}")
        super().__init__(
            dirpath=dirpath,
            filename="step={step:07d}",
            auto_insert_metric_name=False,
            save_top_k=-1,  # Lightning never deletes the one a run was resumed from; `_prune` does
            every_n_train_steps=every_n_steps,
            enable_version_counter=False,
            save_on_train_epoch_end=False,
        )
        self.keep = keep
        self._of_others: frozenset[Path] = frozenset()

    @property
    def state_key(self) -> str:
        """This callback's key in checkpoints; the same for every version of this project."""
        return self._generate_state_key(
            monitor="step",
            mode="max",
            every_n_train_steps=self._every_n_train_steps,
            every_n_epochs=self._every_n_epochs,
            train_time_interval=None,
        )

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the checkpoints are found in the folder."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Ignore the state that earlier versions saved."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.dirpath = str(self.folder(trainer))
        super().setup(trainer, pl_module, stage)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Save the last step here, not at the end of training: by then Lightning counts an epoch that `max_steps` cut
        off as finished, and a resumed run would skip the rest of it."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        ends = trainer.global_step == trainer.max_steps
        ends |= trainer.is_last_batch and trainer.current_epoch + 1 == trainer.max_epochs
        if batch.last and ends:
            save_now(trainer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Save a run that another callback has stopped."""
        save_now(trainer)

    def folder(self, trainer: Any) -> Path:
        """Folder of this run's checkpoints."""
        return run_folder(trainer) / "checkpoints" if self.dirpath is None else Path(self.dirpath)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Remember what is in the folder: the files of others if the run begins at step 0, which are not this run's to
        delete, or the checkpoint that it resumes from, which is not saved again before the next step."""
        super().on_train_start(trainer, pl_module)
        folder = self.folder(trainer)
        if trainer.ckpt_path is None:
            if folder.is_dir():
                self._of_others = frozenset(folder.iterdir())
        elif Path(trainer.ckpt_path).parent.resolve() == folder.resolve():
            self._last_global_step_saved, self._last_checkpoint_saved = trainer.global_step, str(trainer.ckpt_path)

    def _save_topk_checkpoint(self, trainer: Any, monitor_candidates: Any) -> None:
        super()._save_topk_checkpoint(trainer, monitor_candidates)
        if trainer.is_global_zero and self.keep != -1:
            for path in superseded(self.folder(trainer), trainer.global_step, self.keep):
                if path not in self._of_others:
                    remove(path)

    def _find_last_checkpoints(self, trainer: Any) -> set[str]:
        """Where Lightning finds ``ckpt_path="last"`` if the command line has not resolved it."""
        found = newest(self.folder(trainer)).path
        return set() if found is None else {str(found)}


def run_folder(trainer: Any) -> Path:
    """Folder of a run's curves, settings, checkpoints and exports: the logger's, or `default_root_dir`.

    Must be called on every device: they agree on it.
    """
    return Path(trainer.log_dir or trainer.default_root_dir).absolute()


def save_now(trainer: Any) -> str:
    """Save a checkpoint of this optimizer step, unless there is one; returns its path. Called on every device."""
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


def save_before_window(trainer: Any) -> str:
    """Save the optimizer steps done when a window cannot begin, unless they are; returns a line's end that says where.

    Called on every device, when the window's first micro-batch has been read and no gradient of it computed.
    """
    if not trainer.global_step:
        return ""
    progress = trainer.fit_loop.epoch_loop.batch_progress
    last, progress.is_last_batch = progress.is_last_batch, False  # the batch is still to come for a resumed run
    try:
        with trainer.train_dataloader.before_window():
            path = save_now(trainer)
    finally:
        progress.is_last_batch = last
    return f". Step {trainer.global_step} is saved as {path}; start again with --ckpt_path last"
