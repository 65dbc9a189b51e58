"""Defaults of every run: callbacks by command, and the output folder in the trainer section."""

from __future__ import annotations

from typing import Any

import pytest
from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from avrt.config.errors import UsageError
from datamodules.sft import SFTDataModule
from lightning_modules.callbacks import (
    EvaluationProgress,
    Overview,
    RunCheckpoint,
    SpikeReport,
    Throughput,
    TrainingProgress,
    Watchdog,
)
from lightning_modules.trainer_defaults import check_loggers, complete_trainer, with_output_dir


class Evaluated(LightningModule):
    def running_accuracy(self, benchmark: str) -> float:
        return 0.0


TRAINING = [Throughput, Overview, SpikeReport, Watchdog, ModelCheckpoint, RunCheckpoint, TrainingProgress]


@pytest.mark.parametrize(
    ("command", "config", "expected"),
    [
        ("fit", {}, TRAINING),
        ("fit", {"limit_val_batches": 0}, [kind for kind in TRAINING if kind is not ModelCheckpoint]),
        ("fit", {"enable_checkpointing": False}, [Throughput, Overview, SpikeReport, Watchdog, TrainingProgress]),
        ("fit", {"enable_progress_bar": False}, TRAINING[:-1]),
        ("fit", {"callbacks": [RunCheckpoint(keep=-1)]}, [kind for kind in TRAINING if kind is not RunCheckpoint]),
        ("fit", {"callbacks": RichProgressBar()}, TRAINING[:-1]),
        (
            "fit",
            {"callbacks": [ModelCheckpoint(monitor="val/accuracy", mode="max")]},
            [kind for kind in TRAINING if kind is not ModelCheckpoint],
        ),
        ("fit", {"callbacks": [ModelCheckpoint(monitor="loss")]}, TRAINING),
        ("validate", {}, []),
        ("test", {}, [EvaluationProgress]),
        ("test", {"callbacks": [EvaluationProgress()]}, []),
    ],
)
def test_callbacks(command: str, config: dict[str, Any], expected: list[type]) -> None:
    data = SFTDataModule("train", "val")
    assert [type(callback) for callback in complete_trainer(command, config, "runs/x", Evaluated(), data)] == expected


@pytest.mark.parametrize("listed", [False, True])
def test_a_logger_that_writes_elsewhere_is_refused(listed: bool) -> None:
    """Checkpoints follow the logger's folder: two runs with one logger folder would overwrite each other's."""
    logger = CSVLogger("runs/elsewhere", name=None, version="")
    given = [TensorBoardLogger("runs/mine", name=None, version=""), logger] if listed else logger
    with pytest.raises(UsageError, match=r"^trainer\.logger\.save_dir: runs/elsewhere.* output_dir \(runs/mine\)"):
        check_loggers(given, "runs/mine")
    check_loggers(given, None)  # a config without output_dir: the logger's folder is the run's
    check_loggers(logger, "runs/elsewhere")


def test_a_user_s_own_data_gets_no_callback_that_needs_ours() -> None:
    added = complete_trainer("fit", {}, "runs/x", LightningModule(), LightningDataModule())
    assert [type(callback) for callback in added] == [TrainingProgress]


def test_validation_is_by_epoch_unless_an_interval_is_given() -> None:
    for interval, expected in ((None, 1), (0.5, 1), (8, None)):
        config: dict[str, Any] = {"val_check_interval": interval, "check_val_every_n_epoch": None}
        complete_trainer("fit", config, "runs/x", LightningModule(), None)
        assert config["check_val_every_n_epoch"] == expected


@pytest.mark.parametrize(
    ("output_dir", "root", "folder"),
    [("a", None, "a"), ("a", "b", "a"), (None, "b", "b"), (None, None, "runs/default")],
)
def test_the_output_folder(output_dir: str | None, root: str | None, folder: str) -> None:
    logger = Namespace(init_args=Namespace(save_dir="${output_dir}", name="${output_dir}/x", version=None))
    settings = Namespace(output_dir=output_dir, trainer=Namespace(default_root_dir=root, logger=[logger]))
    with_output_dir(settings)
    arguments = settings.trainer.logger[0].init_args
    assert (settings.output_dir, arguments.save_dir, arguments.name) == (folder, folder, f"{folder}/x")
    assert arguments.version is None
