"""Export of the trained student at the end of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from avrt.files.folder_lock import FolderLock
from avrt.model.lora import merge_lora
from avrt.model.student_folder import check_replaceable, write_student_folder


class ExportStudent(Callback):
    """Saves the student at the end of `fit`, as a folder that `student.path` and plain transformers load.

    A checkpoint is for resuming a run (optimizer, position in the data); this folder is for the next stage, in the
    layout that ``python -m avrt export`` writes too: thinker weights under the published names, processor and chat
    template; adapters are merged. It is written atomically and replaces an earlier export, but never another folder or
    `student.path`. Weights that are not finite are not exported. A run that is interrupted exports nothing, nor does a
    trial with `trainer.fast_dev_run`.

    Args:
        folder: None takes ``student`` in the run's folder (`output_dir`).
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder
        self._target = Path()

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        if getattr(trainer.strategy, "stage", None) == 3:
            raise ValueError(
                "trainer.callbacks: ExportStudent cannot save under ZeRO-3 (trainer.strategy), where no process has "
                "all weights; remove it, and run python -m avrt export RUN --out DIR afterwards"
            )
        log_dir = trainer.log_dir  # a collective: every device must call it
        self._target = Path(self.folder or Path(log_dir or trainer.default_root_dir) / "student")
        check_replaceable(self._target, pl_module.student_config.path)  # now, not after the last step

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.interrupted or trainer.fast_dev_run or not trainer.is_global_zero:
            return
        if pl_module.lora_config is not None:
            merge_lora(pl_module.student, pl_module.lora_config)
        with FolderLock(self._target, "fit", beside=True):
            write_student_folder(self._target, pl_module.student.save, pl_module.student_config.path)
