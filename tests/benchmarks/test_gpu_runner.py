"""The runner of ``python -m benchmarks.gpu``: one part's failure costs only its own rows."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import __main__ as program
from benchmarks.gpu.parts import PARTS, Part, select
from benchmarks.gpu.runner import run_part, run_parts, write_json

STUB = "tests.benchmarks.stub_parts"
FIRST = {"what": "first", "value": 1}


def stub(behavior: str, limit: float = 120.0, least: float = 0.0, **arguments: Any) -> Part:
    return Part(behavior.split()[0], STUB, {"behavior": behavior, **arguments}, limit, least)


def empty_result() -> dict[str, Any]:
    return {"schema": 1, "device": {}, "parts": {}, "hardware": {}}


def test_every_outcome_is_recorded_and_the_next_part_runs(tmp_path: Path) -> None:
    behaviors = ("raises", "skips", "dies", "lacks a package", "needs TRL", "fills the memory", "wrong", "hardware")
    result, output = empty_result(), tmp_path / "gpu.json"

    run_parts([stub(name) for name in behaviors], "miniature", 600, output, result)

    parts = result["parts"]
    assert json.loads(output.read_text()) == result
    assert {name: part["status"] for name, part in parts.items()} == {
        "raises": "failed",
        "skips": "skipped",
        "dies": "failed",
        "lacks": "failed",
        "needs": "skipped",
        "fills": "skipped",
        "wrong": "failed",
        "hardware": "ok",
    }
    assert parts["raises"]["reason"] == "RuntimeError: out of ideas"
    assert parts["skips"]["reason"] == "not on Sundays"
    assert parts["dies"]["reason"] == "exit status 7: last words"
    assert "package_that_does_not_exist" in parts["lacks"]["reason"]
    assert "second" in parts["wrong"]["reason"]
    assert all(part["rows"][0] == FIRST for part in parts.values()), "rows before the failure are kept"
    assert result["hardware"] == {"launch_us": 5.0}
    assert parts["hardware"]["rows"] == [FIRST]


def test_a_part_that_hangs_is_killed_with_its_processes(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    part = run_part(stub("hangs", file=str(file)), "miniature", 12.0)
    assert part["status"] == "failed"
    assert part["reason"] == "killed after 12 s"
    assert part["rows"] == [FIRST]
    pid = int(file.read_text())
    for _ in range(100):  # the kernel needs a moment
        if not _alive(pid):
            break
        time.sleep(0.1)
    assert not _alive(pid)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def test_a_part_that_the_budget_ends_is_skipped_with_its_rows(tmp_path: Path) -> None:
    result = empty_result()
    part = stub("hangs", file=str(tmp_path / "pid"), least=1.0)
    run_parts([part], "miniature", 12.0, tmp_path / "gpu.json", result)
    assert result["parts"]["hangs"]["status"] == "skipped"
    assert result["parts"]["hangs"]["reason"].startswith("out of time")
    assert result["parts"]["hangs"]["rows"] == [FIRST]


def test_what_does_not_fit_the_budget_is_skipped(tmp_path: Path) -> None:
    result = empty_result()
    run_parts([stub("hardware", least=50.0)], "miniature", 10, tmp_path / "gpu.json", result)
    part = result["parts"]["hardware"]
    assert (part["status"], part["reason"], part["rows"]) == ("skipped", "out of time", [])


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    output = tmp_path / "gpu.json"
    write_json(output, {"schema": 1})
    with pytest.raises(TypeError):
        write_json(output, {"schema": object()})
    assert json.loads(output.read_text()) == {"schema": 1}


def test_parts_are_selected_by_name_and_family() -> None:
    assert select(None) == list(PARTS)
    assert [part.name for part in select(["phases", "hardware"])] == ["hardware", "phases_3b", "phases_7b"]
    assert [part.name for part in select(["step_7b_plain"])] == ["step_7b_plain"]
    assert len({part.name for part in PARTS}) == len(PARTS)


def test_an_unknown_part_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        program.main(["--parts", "encoder"])
    assert exit_.value.code == 2
    message = capsys.readouterr().err
    assert "'encoder'" in message
    assert "encoders" in message


def test_an_output_folder_that_does_not_exist_is_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        program.main(["--output", str(tmp_path / "none" / "gpu.json")])
    assert "--output" in capsys.readouterr().err
