"""Ends a run that makes no progress, and names the rank and the phase that hangs."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from contextlib import suppress
from typing import Any

from lightning.pytorch import Callback

from avrt.config.numbers import PositiveFloat
from lightning_modules.callbacks.rank_states import Conclusion, RankStates, judge, own_state

DEFAULT_MINUTES = 25.0
"""Time-out of a run whose strategy has none."""

SHARE_OF_STRATEGY = 5 / 6
"""The watchdog's time-out relative to that of the strategy, whose error names neither rank nor phase."""

EXIT_STATUS = 1


class Watchdog(Callback):
    """Ends every process of a run with status 1 if one of them stays in the same phase for too long.

    Phases are reading data, those of ``seconds/*`` (docs/metrics.md), the optimizer step, each batch of a validation,
    a checkpoint, and the end of training. One line names the ranks that hang, their processes and their phase; these
    print the Python stack of their threads as well. A rank that hangs is told from those that wait for it by the
    collective that these are in. A process that was stopped or has died is named by its silence.

    The time during which the process itself was suspended does not count. A call that never releases Python's global
    lock is seen by other ranks only.

    Args:
        timeout_minutes: longest time in one phase. It must be longer than the slowest rollout, batch of a validation,
            fetch of a remote shard, and checkpoint. None takes five sixths of the strategy's time-out, or 25.
    """

    def __init__(self, timeout_minutes: PositiveFloat | None = None) -> None:
        super().__init__()
        self.timeout_minutes = timeout_minutes
        self._states: RankStates | None = None
        self._stopped = threading.Event()
        self._children: list[Any] = []
        self._reporting = threading.Lock()

    # ---- phases -----------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        timeout = getattr(trainer.strategy, "_timeout", None)
        if self.timeout_minutes is not None:
            seconds = self.timeout_minutes * 60
        elif trainer.world_size > 1 and timeout is not None:
            seconds = SHARE_OF_STRATEGY * timeout.total_seconds()
        else:
            seconds = DEFAULT_MINUTES * 60
        interval = min(5.0, seconds / 10)
        launcher = trainer.strategy.launcher
        self._children = list(getattr(launcher, "procs", ()))
        self._stopped = threading.Event()
        self._states = RankStates(own_state(trainer.global_rank), trainer.world_size, interval, self._end)
        self._enter(trainer, "reading data")
        pl_module.step_metrics.on_phase = lambda phase: self._enter(trainer, phase)
        arguments = (self._states, self._stopped, seconds, interval)
        threading.Thread(target=self._watch, args=arguments, name="watchdog", daemon=True).start()

    def _enter(self, trainer: Any, phase: str) -> None:
        if self._states is not None:
            self._states.enter(phase, trainer.global_step)

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        self._enter(trainer, "start of a micro-batch")

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        self._enter(trainer, "optimizer step")

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self._enter(trainer, "reading data")

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self._enter(trainer, "validation")

    def on_validation_batch_start(self, trainer: Any, *_: Any) -> None:
        self._enter(trainer, "validation")

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self._enter(trainer, "reading data")

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self._enter(trainer, "checkpoint")  # until the next micro-batch has been read: no hook is called before

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._enter(trainer, "end of training")

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._stop()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._stop()

    def _stop(self) -> None:
        self._stopped.set()
        if self._states is not None:
            self._states.stop()
            self._states = None

    # ---- the thread -------------------------------------------------------------------------------------------------

    def _watch(self, states: RankStates, stopped: threading.Event, seconds: float, interval: float) -> None:
        number, idle, before = 0, 0.0, time.monotonic()
        while not stopped.wait(interval):
            now = time.monotonic()
            idle += min(now - before, 2 * interval)  # more only if the whole process was suspended
            before = now
            if states.state.number != number:
                number, idle = states.state.number, 0.0
            elif idle >= seconds:
                known, silent = states.current()
                states.conclusion = judge(known, silent, seconds / 60)
                self._report(states.conclusion, states.state.rank)
                time.sleep(3 * interval)  # the others read it
                self._leave()

    def _end(self, conclusion: Conclusion) -> None:
        """Called when another rank has reported first."""
        states = self._states
        if states is not None:
            self._report(conclusion, states.state.rank)
            self._leave()

    def _report(self, conclusion: Conclusion, rank: int) -> None:
        # Nobody may be there to read it (a notebook, a pipe whose reader has ended): the run ends all the same.
        with self._reporting, suppress(OSError, ValueError):
            sys.stderr.write(f"avrt: error: {conclusion.line}\n")
            sys.stderr.flush()
            if rank in conclusion.ranks and sys.__stderr__ is not None:
                faulthandler.dump_traceback(file=sys.__stderr__, all_threads=True)

    def _leave(self) -> None:
        """End without Python's exit, which would wait for the thread that hangs, and with the processes started here:
        one that is stopped would stay forever."""
        for child in self._children:
            child.kill()
        os._exit(EXIT_STATUS)
