"""A command of this project that serves models on this machine while something else calls them."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

from avrt.interrupts import interrupts_held_back

HOST = "127.0.0.1"

START_SECONDS = 60.0
"""Time for the server to answer; that of the demo takes about one second on an idle machine."""


def free_port() -> int:
    """An unused port of this machine."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def local_server(words: Sequence[str], port: int, output: BinaryIO | None = None) -> Iterator[None]:
    """Run ``python -m avrt`` in a process of its own during a block, which begins once the server accepts calls.

    Args:
        words: the words after ``python -m avrt``; the command has to listen on `port`.
        port: of this machine.
        output: file for everything that it prints; None shows its errors and drops the rest.

    Raises:
        ValueError: the server ended or did not answer in time; its own message is in its output.
    """
    command = [sys.executable, "-m", "avrt", *words]
    with interrupts_held_back():  # this process handles Ctrl-C and ends the server
        process = subprocess.Popen(command, stdout=output or subprocess.DEVNULL, stderr=output)  # noqa: S603
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _listens(port):
            if process.poll() is not None:
                raise ValueError(f"the server `avrt {words[0]}` ended with status {process.returncode}, see above")
            if time.monotonic() > deadline:
                raise ValueError(f"the server `avrt {words[0]}` did not answer on port {port} in {START_SECONDS:g} s")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0
