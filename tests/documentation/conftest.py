"""Folders in which the commands of the pages run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest

from tests.documentation.own_data import add_own_data, write_published_traces
from tests.documentation.pages import ROOT, commands
from tests.documentation.sandbox import Sandbox, lay_out_benchmarks, link_project, write_replies
from tests.documentation.teachers import Question, Teachers, read_questions
from tests.programs import ForkServer
from tests.servers.scripted_server import ScriptedServer

OFFERED = (
    "moonshotai/Kimi-VL-A3B-Thinking-2506",
    "audio-flamingo-3-think",
    "Qwen/Qwen2.5-14B-Instruct",
    "google/gemma-3-12b-it",
    "Ted412/Video-RTS",
    "Qwen/Qwen3-Omni-30B-A3B-Instruct",
    "Qwen/Qwen3-Omni-30B-A3B-Thinking",
    "avrt-student",
)
"""Models that the shipped configs ask their servers for."""


@pytest.fixture(scope="session")
def questions(real_data: Path) -> list[Question]:
    return read_questions(real_data / "avqa" / "train_qa.json", real_data / "avqa" / "val_qa.json")


@pytest.fixture(scope="session")
def teachers(questions: list[Question]) -> Iterator[ScriptedServer]:
    with ScriptedServer(Teachers(questions), models=OFFERED) as server:
        yield server


@pytest.fixture(scope="session")
def new_sandbox(
    fork_server: ForkServer,
    teachers: ScriptedServer,
    published_folder: Path,
    published_experts_folder: Path,
    real_data: Path,
) -> Callable[..., Sandbox]:
    """Makes a sandbox with real clips and questions, and nothing that a command has to make."""

    def make(
        folder: Path, strategy: Literal["plain", "deepspeed"] = "plain", student: Path = published_folder
    ) -> Sandbox:
        folder.mkdir(parents=True, exist_ok=True)
        link_project(folder, student, published_experts_folder)
        (folder / "avqa").symlink_to(real_data / "avqa")
        rows = json.loads((real_data / "avqa" / "train_qa.json").read_text(encoding="utf-8"))
        write_published_traces(folder / "AVRT-20K.parquet", rows)
        lay_out_benchmarks(folder, real_data)
        write_replies(folder)
        return Sandbox(folder, fork_server, teachers.url, strategy)

    return make


@pytest.fixture(scope="session")
def packed(new_sandbox: Callable[..., Sandbox], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the shards and traces that the README's commands leave, and the reader's own data."""
    sandbox = new_sandbox(tmp_path_factory.mktemp("packed"))
    for command in commands(ROOT / "README.md"):
        if command.avrt and command.avrt[0] in ("pack", "traces"):
            sandbox.run(command.avrt)
    add_own_data(sandbox)
    return sandbox.folder
