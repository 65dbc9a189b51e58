"""A stage that Ray shares between processes of one machine: everything once, and the same shards."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from avrt.servers.client import ServerError
from avrt.text.prompts import PromptTemplate
from avrt.traces.config import TeacherConfig
from avrt.traces.distributed import _run_share
from avrt.traces.ledger import LedgerIndex
from avrt.traces.pipeline import run_traces
from tests.servers.scripted_server import ScriptedServer
from tests.traces.question_set import answer, make_config


@pytest.mark.slow
def test_several_workers_do_everything_once(question_shards: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs the extra `ray`: uv run --extra ray pytest -m slow")
    with ScriptedServer(answer) as server:
        run_traces(make_config(question_shards, tmp_path / "one", server.url))
        alone = dict(server.seen)
        server.seen.clear()
        config = make_config(question_shards, tmp_path / "three", server.url)
        run_traces(config, workers=3)
        assert dict(server.seen) == alone
        names = sorted(path.name for path in (tmp_path / "three" / "ledger").glob("*.jsonl"))
        assert names == [f"{stage}-{number:03d}.jsonl" for stage in ("audio", "merge", "vision") for number in range(3)]
        assert len(LedgerIndex(config.ledger)) == sum(alone.values())
        # Another number of workers, and one process: nothing is left to do.
        run_traces(config, workers=2)
        run_traces(config)
        assert dict(server.seen) == alone
    one, three = (tmp_path / name / "out" for name in ("one", "three"))
    for path in one.rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            assert path.read_bytes() == (three / path.relative_to(one)).read_bytes(), path.name


def test_a_worker_plans_the_calls_of_a_student(question_shards: Path, tmp_path: Path) -> None:
    """Its template is a setting of its own, which reaches the worker as it is."""
    config = make_config(question_shards, tmp_path, "http://127.0.0.1:1/v1")
    student = TeacherConfig(
        ["http://127.0.0.1:1/v1"],
        inputs="both",
        preset="avrt-student",
        template=PromptTemplate(system="Look."),
        server_wait_seconds=0,
    )
    config = replace(config, teachers={"student": student}, merge=None, variant="student_only")
    with pytest.raises(ServerError):  # nobody listens, but the calls were planned
        _run_share(config, {"worker": 0, "workers": 1, "stage": "student", "retry_rejected": False})


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray_the_error_says_how_to_install_it(question_shards: Path, tmp_path: Path) -> None:
    config = make_config(question_shards, tmp_path, "http://127.0.0.1:1/v1")
    with pytest.raises(ValueError, match=r"pip install 'avrt\[ray\]'"):
        run_traces(config, workers=2)
