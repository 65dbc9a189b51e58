"""Traces of the demo: the public commands, with the demo's own models behind a real HTTP server."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from avrt.demo.servers import DEFAULT_PORT, HOST, server_url
from avrt.demo.stages import config_file, shown_path
from avrt.interrupts import interrupts_held_back

START_SECONDS = 60.0
"""Time for the server to answer; it takes about one second on an idle machine."""


def serve_command(port: int) -> list[str]:
    """Arguments of ``avrt`` that serve the demo's teachers and merger."""
    return ["demo", "--serve", "--port", str(port)]


def traces_command(shards: Path, ledger: Path, output: Path, *, port: int = DEFAULT_PORT) -> list[str]:
    """Arguments of ``avrt`` that make traces for packed clips of the demo.

    Args:
        shards: the packed clips; all splits get traces and stay apart.
        ledger, output: new folders; the ledger may be inside the output, which gets a folder for each split.
        port: port of the server that `serve_command` started.
    """
    words = ["traces", "--config", shown_path(config_file("traces_demo.yaml"))]
    for key, path in (("shards", shards), ("ledger", ledger), ("output", output)):
        words += [f"--{key}", shown_path(path)]
    if port != DEFAULT_PORT:
        for stage in ("teachers.vision", "teachers.audio", "merge"):
            words += [f"--{stage}.base_urls", f'["{server_url(port)}"]']
    return words


def free_port() -> int:
    """An unused port of this machine."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def demo_server(port: int) -> Iterator[None]:
    """Run `serve_command` in a process of its own during a block, which begins once the server accepts calls.

    Raises:
        ValueError: the server ended or did not answer in time; its own message is on standard error.
    """
    words = [sys.executable, "-m", "avrt", *serve_command(port)]
    with interrupts_held_back():  # this process handles Ctrl-C and ends the server
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL)  # noqa: S603
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _listens(port):
            if process.poll() is not None:
                raise ValueError(f"the demo's server ended with status {process.returncode}, see above")
            if time.monotonic() > deadline:
                raise ValueError(f"the demo's server did not answer on port {port} within {START_SECONDS:g} s")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0
