"""Checkpoint and exit cleanly on SIGTERM or SIGUSR1."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch import Callback
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from avrt.files.atomic import write_atomic
from lightning_modules.callbacks.checkpoint import save_now

EXIT_STATUS = 85
"""Exit status of a run that saved itself, to be started again with ``--ckpt_path last``. (Linux's ERESTART.)"""

STATUS_FOLDER = "AVRT_STATUS_DIR"
"""Environment variable: a folder in which the file ``preempted`` is written too, for launchers that replace the exit
status by their own (torchrun) or that kill processes which end a moment later (srun)."""


class PreemptionCallback(Callback):
    """On SIGTERM or SIGUSR1 to any process of a run: save at the next optimizer step, then exit with status 85.

    The handler only sets a flag. After each optimizer step all processes agree whether one of them got a signal, so
    they save together, at the same step, outside the handler. Lightning's own handlers, which save or communicate with
    other processes in the middle of a step, are replaced.

    ``scripts/slurm.sh`` queues such a job again; see ``docs/train.md``.

    Args:
        signals: names of the signals to act on.
        exit_status: exit status of the run.
    """

    def __init__(self, signals: Sequence[str] = ("SIGTERM", "SIGUSR1"), exit_status: int = EXIT_STATUS) -> None:
        self.signals = []
        for name in signals:
            if name not in signal.Signals.__members__:
                raise ValueError(f"signals: {name!r} is not a signal, such as SIGTERM")
            self.signals.append(signal.Signals[name])
        if not 1 <= exit_status <= 125:
            raise ValueError(f"exit_status must be 1 to 125, got {exit_status}")
        self.exit_status = exit_status
        self.received: signal.Signals | None = None
        self._leaving = False
        self._before: dict[signal.Signals, Any] = {}

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        # Early, so that a signal during loading is not lost; Lightning installs its own handlers after this.
        if stage == "fit":
            self._install()

    def on_sanity_check_start(self, trainer: Any, pl_module: Any) -> None:
        self._install()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._install()

    def _install(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in self.signals:
                before = signal.signal(number, self._receive)
                self._before.setdefault(number, before)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch.last and trainer.strategy.reduce_boolean_decision(self.received is not None, all=False):
            pl_module.prepare_to_leave()
            path = save_now(trainer)
            trainer.strategy.barrier()
            self._leave_note(trainer, path)
            who = self.received.name if self.received else "another process got the signal"
            rank_zero_info(f"preempted ({who}): saved {path}; start again with --ckpt_path last")
            self._leaving = True

    # The run ends a moment later, when the step's metrics have reached the logger.

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._leave(trainer)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self._leave(trainer)

    def _leave(self, trainer: Any) -> None:
        if self._leaving:
            raise SystemExit(self._status(trainer))

    def _leave_note(self, trainer: Any, checkpoint: str) -> None:
        folder = os.environ.get(STATUS_FOLDER)
        if folder and trainer.local_rank == 0:
            Path(folder).mkdir(parents=True, exist_ok=True)
            write_atomic(Path(folder) / "preempted", f"{checkpoint}\n".encode())

    def _status(self, trainer: Any) -> int:
        """0 for processes that Lightning started itself: their parent kills itself if a child fails."""
        environment = trainer.strategy.cluster_environment if trainer.world_size > 1 else None
        child = isinstance(environment, LightningEnvironment) and trainer.local_rank > 0
        return 0 if child else self.exit_status

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._restore()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._restore()

    def _restore(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before = {}
