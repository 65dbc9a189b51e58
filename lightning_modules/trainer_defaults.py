"""Settings and callbacks that every run has unless its config says otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.loggers import Logger

from avrt.config.errors import UsageError
from datamodules.base import ShardDataModule
from lightning_modules.callbacks import (
    EvaluationProgress,
    Overview,
    RunCheckpoint,
    SpikeReport,
    Throughput,
    TrainingProgress,
    Watchdog,
)
from lightning_modules.callbacks.evaluation_progress import MeasuresAccuracy

OUTPUT_DIR = "${output_dir}"
"""In the trainer section, the value of the key `output_dir`."""

DEFAULT_FOLDER = "runs/default"
"""Output folder of a run whose config names none."""

TRAINER_DEFAULTS: dict[str, Any] = {
    "log_every_n_steps": 1,
    "num_sanity_val_steps": 0,
    "check_val_every_n_epoch": None,
    "use_distributed_sampler": False,  # the data modules divide the samples over the devices
    "logger": {
        "class_path": "lightning_modules.curves.CurveLogger",
        "init_args": {"save_dir": OUTPUT_DIR, "name": None, "version": ""},
    },
}
"""Another logger class takes `save_dir`, `name` and `version` from here unless the config gives its own."""


def with_output_dir(settings: Namespace) -> None:
    """Set `output_dir` if it is not given, and write it wherever the trainer section refers to it."""
    folder = settings.output_dir or settings.trainer.default_root_dir or DEFAULT_FOLDER
    settings.output_dir = str(folder)
    settings.trainer = _replaced(settings.trainer, settings.output_dir)


def _replaced(value: Any, folder: str) -> Any:
    if isinstance(value, Namespace):
        return Namespace(**{key: _replaced(child, folder) for key, child in vars(value).items()})
    if isinstance(value, list):
        return [_replaced(child, folder) for child in value]
    if isinstance(value, str) and value.startswith(OUTPUT_DIR):
        return folder + value.removeprefix(OUTPUT_DIR)
    return value


def check_loggers(loggers: Any, output_dir: str | None) -> None:
    """Refuse a logger that writes elsewhere: checkpoints and exports follow the logger's folder.

    Args:
        loggers: as built: one, a list, a switch, or None.
        output_dir: as given in the config; None if it is not, and then a logger's own folder is the run's.

    Raises:
        UsageError: names both keys.
    """
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        folder = (getattr(logger, "log_dir", None) or logger.save_dir) if isinstance(logger, Logger) else None
        if output_dir and folder and not Path(folder).resolve().is_relative_to(Path(output_dir).resolve()):
            raise UsageError(
                f"trainer.logger.save_dir: {folder} is not below output_dir ({output_dir}), where everything that a "
                "run writes goes; remove one of the two"
            )


def complete_trainer(
    command: str, config: dict[str, Any], output_dir: str, model: LightningModule, data: Any
) -> list[Callback]:
    """Fill in the trainer's arguments; returns the callbacks to add to those listed.

    Args:
        command: ``fit``, ``validate``, ``test`` or ``predict``.
        config: the trainer's arguments with logger and callbacks built; changed in place.
        output_dir: the run's folder.
        model, data: what the trainer will run on.
    """
    loggers = config.get("logger")
    logger = loggers[0] if isinstance(loggers, list) and loggers else loggers
    if config.get("default_root_dir") is None:
        # Files that Lightning itself saves belong into the run's one folder too.
        log_dir = (getattr(logger, "log_dir", None) or logger.save_dir) if isinstance(logger, Logger) else None
        config["default_root_dir"] = log_dir or output_dir
    if config.get("check_val_every_n_epoch") is None and not isinstance(config.get("val_check_interval"), int):
        config["check_val_every_n_epoch"] = 1  # without an interval in micro-batches; Lightning requires one of the two
    given = config.get("callbacks") or []
    listed = given if isinstance(given, list) else [given]
    return [
        callback
        for callback in default_callbacks(command, config, model, data)
        if not any(_replaces(other, callback) for other in listed)
    ]


def default_callbacks(command: str, config: dict[str, Any], model: LightningModule, data: Any) -> list[Callback]:
    """Curves, checkpoints, guards and a progress bar. Those for training need the batches of a `ShardDataModule`."""
    callbacks: list[Callback] = []
    if command == "fit" and isinstance(data, ShardDataModule):
        callbacks += [Throughput(), Overview(), SpikeReport(), Watchdog()]
        if config.get("enable_checkpointing") is not False:
            if data.val is not None and config.get("limit_val_batches") != 0:
                callbacks.append(best_checkpoint())
            callbacks.append(RunCheckpoint())
    if config.get("enable_progress_bar") is not False:
        if command == "fit":
            callbacks.append(TrainingProgress())
        elif command == "test" and isinstance(model, MeasuresAccuracy):
            callbacks.append(EvaluationProgress())
    return callbacks


def best_checkpoint() -> ModelCheckpoint:
    """The checkpoint with the highest validation accuracy, ``checkpoints/best.ckpt``."""
    return ModelCheckpoint(filename="best", monitor="val/accuracy", mode="max", enable_version_counter=False)


def _replaces(listed: Callback, default: Callback) -> bool:
    """Whether a listed callback replaces a default one: the same class, or for the best checkpoint the same metric."""
    if isinstance(default, ProgressBar):
        return isinstance(listed, ProgressBar)
    if isinstance(default, ModelCheckpoint) and not isinstance(default, RunCheckpoint):
        return isinstance(listed, ModelCheckpoint) and listed.monitor == default.monitor
    return isinstance(listed, type(default))
