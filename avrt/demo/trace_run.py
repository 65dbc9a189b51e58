"""The demo's traces: the public commands, with the demo's own models behind a real HTTP server."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from avrt.demo.servers import DEFAULT_PORT, HOST, server_url
from avrt.demo.stages import config_file, shown_path
from avrt.traces.config import STAGES, Variant
from avrt.traces.config_file import load_config
from avrt.traces.pipeline import run_traces

START_SECONDS = 60.0
"""Time for the server to answer; it takes about one second on an idle machine."""


def serve_command(port: int) -> list[str]:
    """The words after ``python -m avrt`` that serve the demo's teachers and merger."""
    return ["demo", "--serve", "--port", str(port)]


def trace_settings(
    shards: Path, ledger: Path, output: Path, *, port: int = DEFAULT_PORT, variant: Variant = "merged"
) -> list[str]:
    """What differs from cli_configs/traces_demo.yaml, each as ``key=value``."""
    settings = [f"shards={shown_path(shards)}", f"ledger={shown_path(ledger)}", f"output={shown_path(output)}"]
    if variant != "merged":
        settings.append(f"variant={variant}")
    if port != DEFAULT_PORT:
        settings += [f'{stage}.base_urls=["{server_url(port)}"]' for stage in STAGES]
    return settings


def traces_command(
    shards: Path, ledger: Path, output: Path, *, port: int = DEFAULT_PORT, variant: Variant = "merged"
) -> list[str]:
    """The words after ``python -m avrt`` that make traces for packed clips of the demo.

    Args:
        shards: what `avrt pack` made of the clips; all its splits get traces, and keep their split.
        ledger, output: new folders.
        port: of the server that `serve_command` started.
        variant: the filter keeps about a quarter of ``merged`` (both teachers have to guess right between two
            options); ``unfiltered`` keeps all, and here every one is right, because the merger can tell from the two
            descriptions.
    """
    words = ["traces", "--config", shown_path(config_file("traces_demo.yaml"))]
    for setting in trace_settings(shards, ledger, output, port=port, variant=variant):
        words += ["--set", setting]
    return words


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def demo_server(port: int) -> Iterator[None]:
    """Run `serve_command` in a process of its own for the length of a block; enters once it takes calls.

    Raises:
        ValueError: it ended or did not answer in time; its own message stands on standard error.
    """
    words = [sys.executable, "-m", "avrt", *serve_command(port)]
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


def make_demo_traces(
    shards: str | Path, ledger: str | Path, output: str | Path, variant: Variant = "merged"
) -> dict[str, Any]:
    """Start the demo's models, run all four steps as `traces_command` does, stop them.

    Returns:
        The statistics.
    """
    port = free_port()
    settings = trace_settings(Path(shards), Path(ledger), Path(output), port=port, variant=variant)
    config = load_config([config_file("traces_demo.yaml")], settings)
    with demo_server(port):
        statistics = run_traces(config)
    assert statistics is not None
    return statistics


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0
