"""TensorBoard curves that never end a run: on a full disk points are lost, and the log says which.

TensorBoard's own writer has a thread that dies at the first failed write, and ends the run at the next point.
"""

from __future__ import annotations

import io
import logging
import os
import socket
import time
from itertools import count
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.writer import FileWriter

log = logging.getLogger(__name__)

FLUSH_SECONDS = 10.0
"""Longest time that points wait in memory while more of the same step arrive."""

_numbers = count()


class EventFile:
    """One file of events, written step by step; a step that does not fit is left out as a whole.

    Args:
        folder: made if absent.

    Raises:
        OSError: the file cannot be made.
    """

    def __init__(self, folder: str) -> None:
        os.makedirs(folder, exist_ok=True)
        name = f"events.out.tfevents.{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}.{next(_numbers)}"
        self.path = os.path.join(folder, name)
        self._folder = folder
        self._file = open(self.path, "wb", buffering=0)  # noqa: SIM115 (closed by `close`)
        self._size = 0
        self._pending = io.BytesIO()
        self._step = 0
        self._written_at = time.monotonic()
        self._lost: tuple[int, int] | None = None
        self.add_event(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def get_logdir(self) -> str:
        """The folder."""
        return self._folder

    def add_event(self, event: Any) -> None:
        """Add an event; those of earlier steps are written first."""
        if event.step != self._step or time.monotonic() - self._written_at > FLUSH_SECONDS:
            self.flush()
        self._step = event.step
        RecordWriter(self._pending).write(event.SerializeToString())

    def flush(self) -> None:
        """Write what waits in memory, or note it as lost."""
        self._written_at = time.monotonic()
        data = self._pending.getvalue()
        if not data or self._file.closed:
            return
        self._pending = io.BytesIO()
        written = 0
        try:
            while written < len(data):
                written += self._file.write(data[written:])
        except OSError as error:
            # A reader stops at an incomplete record, so none may stay.
            self._file.truncate(self._size)
            self._file.seek(self._size)
            if self._lost is None:
                log.warning(
                    "%s: %s; from step %d on the curves have a gap, training continues",
                    self.path,
                    error.strerror,
                    self._step,
                )
            self._lost = (self._step if self._lost is None else self._lost[0]), self._step
        else:
            self._size += written
            self._report_gap()

    def close(self) -> None:
        """Write the last points and close the file."""
        self.flush()
        self._report_gap()
        self._file.close()

    def reopen(self) -> None:
        """Nothing: Lightning makes a new writer after it has closed one."""

    def _report_gap(self) -> None:
        if self._lost is not None:
            log.warning("%s: the curves have no points for steps %d to %d: the disk was full", self.path, *self._lost)
            self._lost = None


class _EventWriter(FileWriter):
    def __init__(self, folder: str) -> None:  # the base class would start the thread
        self.event_writer = EventFile(folder)


class _CurveWriter(SummaryWriter):
    def _get_file_writer(self) -> FileWriter:
        if self.all_writers is None or self.file_writer is None:
            writer: Any = _EventWriter(str(self.log_dir))
            self.file_writer, self.all_writers = writer, {writer.get_logdir(): writer}  # type: ignore[assignment]
        return self.file_writer  # type: ignore[return-value]


class CurveLogger(TensorBoardLogger):
    """Lightning's TensorBoardLogger, writing to an `EventFile`: training continues while the disk is full."""

    @property
    @rank_zero_experiment
    def experiment(self) -> SummaryWriter:
        """The writer of events; on other processes than the first, one that does nothing."""
        if self._experiment is None and "://" not in self.log_dir:
            self._experiment = _CurveWriter(log_dir=self.log_dir, **self._kwargs)
        return super().experiment

    @rank_zero_only
    def save(self) -> None:
        """Write the module's settings, ``hparams.yaml``, unless the disk is full."""
        try:
            super().save()
        except OSError as error:
            log.warning("%s/%s: %s; training continues", self.log_dir, self.NAME_HPARAMS_FILE, error.strerror)
