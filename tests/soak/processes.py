"""One start of ``python -m avrt ...`` in processes of its own, as a user starts it, and the ways to end it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tests.programs import environment
from tests.soak.tally import Problem

HANG_SECONDS = 1_800.0
"""A start that takes longer is a hang."""

END_SECONDS = 600.0
"""A start that was told to end, or lost one of its processes, must have ended after this time."""

ORPHAN_SECONDS = 120.0
"""Its other processes must have ended this long after the first one."""


class Start:
    """A running command. It and all processes that it starts are one process group.

    Args:
        words: what a user types after ``python -m avrt``.
        log: file for everything that it prints.
        variables: further environment variables.
    """

    def __init__(self, words: Sequence[str], log: Path, variables: Mapping[str, str]) -> None:
        self.log = log
        self.began = time.monotonic()
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "avrt", *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**environment(), **variables},
                cwd=log.parent,
                start_new_session=True,
            )
        self.pid = self._process.pid
        _running.add(self)

    @property
    def status(self) -> int | None:
        """Exit status, negative for a signal; None while the first process runs."""
        return self._process.poll()

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def errors(self) -> list[str]:
        """The lines in which the command says why it failed."""
        return [line for line in self.output.splitlines() if line.startswith("avrt: error:")]

    def others(self) -> list[int]:
        """Its other processes: data workers, their fork server, the resource tracker."""
        return [pid for pid in _group(self.pid) if pid != self.pid]

    def data_workers(self) -> list[int]:
        """Processes that the fork server started."""
        others = self.others()
        return [pid for pid in others if _parent(pid) in others and "resource_tracker" not in _command(pid)]

    def until(self, condition: Callable[[], bool], seconds: float = HANG_SECONDS) -> bool:
        """Wait for a condition; False if the command ends first.

        Raises:
            Problem: neither happens in time.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            if self.status is not None:
                return False
            if time.monotonic() > deadline:
                raise Problem(f"hang: {self.log.name} made no progress in {seconds:.0f} s")
            time.sleep(0.05)
        return True

    def wait(self, seconds: float = HANG_SECONDS) -> int:
        """Wait for the end of all its processes; returns the first one's status.

        Raises:
            Problem: it does not end, or its other processes outlive it.
        """
        try:
            status = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Problem(f"hang: {self.log.name} did not end in {seconds:.0f} s") from None
        deadline = time.monotonic() + ORPHAN_SECONDS
        while self.others():
            if time.monotonic() > deadline:
                left = [f"{pid} {_command(pid)[:80]}" for pid in self.others()]
                raise Problem(f"{self.log.name}: processes outlive the command by {ORPHAN_SECONDS:.0f} s: {left}")
            time.sleep(0.05)
        return status

    def signal(self, number: signal.Signals, *, everyone: bool = False) -> None:
        """Signal the first process, or all of them as a scheduler does."""
        with suppress(ProcessLookupError):
            if everyone:
                os.killpg(self.pid, number)
            else:
                os.kill(self.pid, number)

    def end(self) -> None:
        """Kill whatever is left of it."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        _running.discard(self)


_running: set[Start] = set()


def end_all() -> None:
    """Kill all commands that run, when the soak itself is stopped."""
    for start in tuple(_running):
        start.end()


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _stat(pid: int) -> list[str]:
    """State, parent, group, ... of a process; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _parent(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def _group(group: int) -> list[int]:
    """Living processes of a group; zombies have ended."""
    found = []
    for entry in os.scandir("/proc"):
        fields = _stat(int(entry.name)) if entry.name.isdigit() else []
        if fields and int(fields[2]) == group and fields[0] != "Z":
            found.append(int(entry.name))
    return sorted(found)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
