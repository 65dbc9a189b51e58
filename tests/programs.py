"""Programs that tests start as ``python -m MODULE``, each in separate processes; see `tests.fork_server`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

REPOSITORY = Path(__file__).resolve().parents[1]

TIMEOUT = 240
"""Seconds after which a program counts as hung."""


def environment() -> dict[str, str]:
    """The environment of a run's processes: one thread each, and nothing from a launcher around the tests."""
    launcher = ("SLURM", "PL_", "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(launcher)}
    return kept | {
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(REPOSITORY),
    }


@dataclass
class Program:
    """A started program; with the processes that it starts it is one process group.

    Attributes:
        pid: of its first process.
        log: the file with what all of them print.
        status_file: appears at its end.
        returncode: its exit status, negative for a signal; None as long as `poll` and `wait` have not seen its end.
    """

    pid: int
    log: Path
    status_file: Path
    returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None and self.status_file.exists():
            self.returncode = int(self.status_file.read_text())
        return self.returncode

    def wait(self, timeout: float = TIMEOUT) -> str:
        """Wait for its end and return its output. A program that hangs is killed with all its processes."""
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"the program hung for {timeout} s:\n{self.output[-6000:]}")
            time.sleep(0.02)
        return self.output

    @property
    def output(self) -> str:
        """Its output so far."""
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        """Kill it and the processes that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


class ForkServer:
    """Starts programs. Its own start takes as long as importing the training stack, and does not wait for it."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.fork_server"],
            cwd=REPOSITORY,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()  # then it kills running programs, and ends
        self._server.wait(30)

    def start(self, module: str, arguments: Sequence[str], log: Path, **variables: str) -> Program:
        """Start ``python -m module arguments...`` in the log's folder, with more environment variables."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        status = log.with_suffix(".status")
        status.unlink(missing_ok=True)
        request = {
            "module": module,
            "arguments": list(arguments),
            "cwd": str(log.parent),
            "env": environment() | variables,
            "log": str(log),
            "status": str(status),
        }
        self._server.stdin.write(json.dumps(request) + "\n")
        answer = self._server.stdout.readline()
        assert answer, "the fork server has died"
        return Program(int(answer), log, status)
