"""TensorBoard on a full disk: training continues, the curves have a gap, and the log names it."""

from __future__ import annotations

import logging
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from lightning_modules.curves import CurveLogger
from lightning_modules.trainer_defaults import TRAINER_DEFAULTS
from tests.lightning_modules.callbacks.tiny_runs import events, scalars, sft, trainer, write_shards


@contextmanager
def full_disk() -> Iterator[None]:
    """No file of this process can grow, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def log_steps(logger: CurveLogger, *steps: int) -> None:
    for step in steps:
        logger.log_metrics({"a": float(step), "b": 2.0 * step}, step)
        logger.save()


def test_a_gap_while_the_disk_is_full(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger = CurveLogger(str(tmp_path), name=None, version="")
    threads = threading.active_count()
    log_steps(logger, 0, 1, 2)
    logger.experiment.flush()
    with full_disk():
        log_steps(logger, 3, 4, 5)
        logger.experiment.flush()
    log_steps(logger, 6, 7)
    logger.finalize("success")
    found = events(tmp_path)
    for name, factor in (("a", 1.0), ("b", 2.0)):
        assert scalars(found, name) == [(step, factor * step) for step in (0, 1, 2, 6, 7)]
    first, second = [record.message for record in caplog.records]
    assert "File too large; from step 3 on the curves have a gap" in first
    assert "no points for steps 3 to 5" in second
    assert threading.active_count() == threads


def test_a_disk_that_stays_full(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger = CurveLogger(str(tmp_path), name=None, version="")
    log_steps(logger, 0, 1)
    with full_disk():
        log_steps(logger, 2, 3)
        logger.finalize("success")
    assert "no points for steps 2 to 3" in caplog.text
    assert [step for step, _ in scalars(events(tmp_path), "a")] == [0, 1]


def test_every_step_can_be_read_at_once(tmp_path: Path) -> None:
    """And no record is incomplete, which would hide those behind it."""
    logger = CurveLogger(str(tmp_path), name=None, version="")
    for step in range(20):
        if step % 3 == 1:
            with full_disk():
                log_steps(logger, step)
                logger.experiment.flush()
        else:
            log_steps(logger, step)
            logger.experiment.flush()
        (file,) = tmp_path.glob("events.*")
        steps = {event.step for event in EventFileLoader(str(file)).Load()}
        assert steps == {n for n in range(step + 1) if n % 3 != 1} | {0}
    logger.finalize("success")


class FullDisk(Callback):
    """In steps 2 and 3."""

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        limit = 1 if trainer.global_step in (1, 2) else resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    def on_train_end(self, trainer: Any, module: Any) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def test_a_training_run_continues(student_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert TRAINER_DEFAULTS["logger"]["class_path"] == f"{CurveLogger.__module__}.{CurveLogger.__qualname__}"
    module, data = sft(student_folder, write_shards(tmp_path / "shards"))
    settings = {"max_steps": 6, "accumulate_grad_batches": 1, "limit_val_batches": 0, "val_check_interval": None}
    logger = CurveLogger(str(tmp_path / "run"), name=None, version="")
    with caplog.at_level(logging.WARNING):
        trainer(tmp_path / "run", [FullDisk()], logger=logger, **settings).fit(module, data)
    steps = [step for step, _ in scalars(events(tmp_path / "run"), "loss")]
    assert 2 <= len(steps) < 6
    assert steps[-1] == 5
    assert "the curves have a gap, training continues" in caplog.text
    assert "no points for steps" in caplog.text
