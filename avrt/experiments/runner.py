"""Runs stages one after the other, each in a process of its own.

A stage that is complete is skipped; an interrupted one continues, since every command does. The stages that need a
failed one are left out, and the others still run.
"""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import BinaryIO

import yaml

from avrt.experiments.overlays import filled
from avrt.experiments.stages import OVERLAY_FILE, Stage
from avrt.experiments.state import LOG_FILE, StageState, is_complete, read_state
from avrt.files.atomic import write_atomic
from avrt.interrupts import INTERRUPTED
from avrt.servers.local_server import free_port, local_server

LAST_LINE = 300
"""Characters of a failed stage's last line that are repeated."""

CLEAN_UP_SECONDS = 60.0
"""Time for a command to end after Ctrl-C before it is killed."""


@dataclass(frozen=True)
class Outcome:
    """The result of a stage: ``complete``, ``skipped`` (it was complete), ``failed`` or ``left out``."""

    stage: Stage
    status: str
    seconds: float = 0.0
    error: str = ""


class StageRunner:
    """Runs stages on this machine.

    Args:
        stages: all stages by name, each behind those that it needs.
        service: words of the command that has to run beside some stages, with ``{port}``; empty for none.
        environment: variables of the commands.
    """

    def __init__(self, stages: Mapping[str, Stage], service: str, environment: Mapping[str, str] | None = None) -> None:
        self.stages = stages
        self.service = service
        self.environment = environment

    def run_all(self, started: Callable[[Stage], None], ended: Callable[[Outcome], None]) -> list[Outcome]:
        """Run all stages in order.

        Args:
            started: called before a stage runs.
            ended: called after it.

        Raises:
            KeyboardInterrupt: the user stopped it; the running stage continues next time.
        """
        outcomes: dict[str, Outcome] = {}
        for stage in self.stages.values():
            missing = [name for name in stage.needs if outcomes[name].status not in ("complete", "skipped")]
            if missing:
                outcome = Outcome(stage, "left out", error=f"needs {missing[0]}")
            elif is_complete(stage):
                outcome = Outcome(stage, "skipped")
            else:
                started(stage)
                outcome = self.run(stage)
            outcomes[stage.name] = outcome
            ended(outcome)
        return list(outcomes.values())

    def run(self, stage: Stage) -> Outcome:
        """Run one stage to its end.

        Raises:
            KeyboardInterrupt: see `run_all`.
            SystemExit: a scheduler stopped it; the status is the command's own.
        """
        stage.folder.mkdir(parents=True, exist_ok=True)
        port = free_port() if stage.with_service else 0
        place = {"port": str(port)}
        if stage.overlay is not None:
            text = yaml.safe_dump(filled(stage.overlay, place), sort_keys=False, allow_unicode=True)
            write_atomic(stage.folder / OVERLAY_FILE, text.encode())
        commands: list[list[str]] = filled(stage.commands, place)
        before = read_state(stage)
        spent, begun = before.seconds if before else 0.0, time.monotonic()

        def state(status: str, error: str = "") -> Outcome:
            seconds = spent + time.monotonic() - begun
            shown = [shlex.join(["python", "-m", "avrt", *words]) for words in commands]
            StageState(stage.fingerprint, status, seconds, shown, error).write(stage.folder)  # type: ignore[arg-type]
            return Outcome(stage, status, seconds, error)

        try:
            with (stage.folder / LOG_FILE).open("ab") as output:
                server = local_server(filled(shlex.split(self.service), place), port, output)
                with server if stage.with_service else nullcontext():
                    for words in commands:
                        status, stopped = self._run_command(words, output)
                        if stopped:
                            state("interrupted")
                            raise SystemExit(status if status > 0 else 128 + stopped)
                        if status:
                            return state("failed", _last_line(stage.folder / LOG_FILE) or f"exit status {status}")
        except KeyboardInterrupt:
            state("interrupted")
            raise
        except ValueError as error:  # of the service
            return state("failed", str(error))
        return state("complete")

    def _run_command(self, words: Sequence[str], output: BinaryIO) -> tuple[int, int]:
        """Run a command to its end; its exit status, and the number of the signal that asked it to end, or 0.

        Raises:
            KeyboardInterrupt: the user stopped it, and the command has ended.
        """
        output.write(f"$ {shlex.join(['python', '-m', 'avrt', *words])}\n".encode())
        output.flush()
        command = [sys.executable, "-m", "avrt", *words]
        process = subprocess.Popen(command, stdout=output, stderr=output, env=self.environment)  # noqa: S603
        with process, _passed_on(process) as signals:
            try:
                status = process.wait()
            except KeyboardInterrupt:  # it reached the command too, which cleans up
                try:
                    process.wait(CLEAN_UP_SECONDS)
                except (subprocess.TimeoutExpired, KeyboardInterrupt):
                    process.kill()
                raise
        if status in (INTERRUPTED, -signal.SIGINT):
            raise KeyboardInterrupt
        return status, signals[-1] if signals else 0


@contextmanager
def _passed_on(process: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Pass a scheduler's signals on to the command: SIGTERM and SIGUSR1 let a training run save itself.

    Yields:
        the signals that came, in their order.
    """
    received: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if process.poll() is None:
            process.send_signal(number)

    signals = (signal.SIGTERM, signal.SIGUSR1)
    before = [signal.signal(number, forward) for number in signals]
    try:
        yield received
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def _last_line(log: Path) -> str:
    """The last line of a log that says something."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 20_000))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "")[:LAST_LINE]
