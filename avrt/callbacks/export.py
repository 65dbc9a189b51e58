"""Saving the trained student as a folder when a run ends."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from avrt.atomic import PARTIAL_SUFFIX, sync_folder
from avrt.lora import merge_lora


class ExportStudent(Callback):
    """Saves the student at the end of `fit`, as a folder that `student.path` and plain transformers load.

    A checkpoint holds what a run needs to go on (optimizer, position in the data); this folder holds what the next
    stage starts from: thinker weights, processor and chat template; adapters are folded in. It appears whole or not at
    all, and replaces that of an earlier run. A run that is interrupted exports nothing, and so does a trial with
    `trainer.fast_dev_run`.

    Args:
        folder: where to save; None takes ``student`` in the logger's folder, or without a logger in
            `trainer.default_root_dir`.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder
        self._target = Path()

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        if getattr(trainer.strategy, "stage", None) == 3:
            raise ValueError(
                "trainer.callbacks: ExportStudent cannot save under trainer.strategy.init_args.stage 3, where no "
                "process has all weights; remove it, and run python -m avrt export RUN --out DIR afterwards"
            )
        log_dir = trainer.log_dir  # all devices must ask
        self._target = Path(self.folder or Path(log_dir or trainer.default_root_dir) / "student")
        _check_free(self._target)  # better now than after the last step

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.interrupted or trainer.fast_dev_run or not trainer.is_global_zero:
            return
        if pl_module.lora_config is not None:
            merge_lora(pl_module.student, pl_module.lora_config)
        save_student(pl_module.student, self._target)


def save_student(student: Any, folder: Path) -> None:
    """Save a student (anything with ``save(folder)``) so that `folder` is never seen half written.

    Raises:
        ValueError: `folder` exists and holds something else than a saved model.
        OSError: it cannot be written.
    """
    _check_free(folder)
    partial = folder.with_name(folder.name + PARTIAL_SUFFIX)
    if partial.exists():
        shutil.rmtree(partial)  # of a run that was killed
    partial.mkdir(parents=True)
    student.save(partial)
    if folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)
    sync_folder(folder.parent)


def _check_free(folder: Path) -> None:
    if folder.exists() and not (folder / "config.json").is_file():
        raise ValueError(f"{folder} exists and is no saved student; move it away or choose another folder")
