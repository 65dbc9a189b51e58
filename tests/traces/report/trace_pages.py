"""A finished trace run for pages: its config, and texts that a page must not run."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from avrt.traces.config import TracesConfig
from avrt.traces.pipeline import run_traces
from tests.pages.reader import HOSTILE
from tests.servers.scripted_server import Reply, ScriptedServer
from tests.traces.question_set import answer, make_config

HOSTILE_INDEX = 5
"""A question to which the vision teacher replies with `HOSTILE`; it is wrong there."""


@dataclass(frozen=True)
class FinishedRun:
    """A run over `question_set`, and what it wrote."""

    config: TracesConfig
    statistics: dict[str, Any]
    root: Path


def hostile_answer(body: dict[str, Any], text: str, times: int) -> Reply:
    """As `answer`, with HTML in one reply."""
    reply = answer(body, text, times)
    is_vision = any(part["type"] == "image_url" for part in body["messages"][-1]["content"])
    if is_vision and f"clip number {HOSTILE_INDEX}?" in text:
        return Reply(f"◁think▷{HOSTILE}◁/think▷{HOSTILE}\nAnswer: (C) brown bear")
    return reply


def finish_run(shards: Path, root: Path, **changes: Any) -> FinishedRun:
    """Make all calls and write the output."""
    with ScriptedServer(hostile_answer) as server:
        config = make_config(shards, root, server.url, **changes)
        statistics = run_traces(config)
    assert statistics is not None
    return FinishedRun(config, statistics, root)


def write_config(run: FinishedRun) -> Path:
    """The run's settings as a file."""
    path = run.root / "traces.json"
    path.write_text(json.dumps(asdict(run.config)))
    return path
