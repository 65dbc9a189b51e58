"""Traces of the demo: the public commands, with the demo's own models behind a real HTTP server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from avrt.demo.servers import DEFAULT_PORT, server_url
from avrt.demo.stages import config_file, shown_path
from avrt.servers.local_server import local_server


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


@contextmanager
def demo_server(port: int) -> Iterator[None]:
    """Run `serve_command` in a process of its own during a block; raises as `local_server`."""
    with local_server(serve_command(port), port):
        yield
