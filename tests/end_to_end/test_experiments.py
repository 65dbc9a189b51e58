"""`avrt experiments` with real stages, tiny: from the files to tables and page, again, and after a kill."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from avrt.cli import main
from tests.lightning_modules.training import write_shards
from tests.programs import environment

STEPS = 3


def write_experiment(folder: Path, student: Path) -> Path:
    """Two arms, RL with and without the length reward, on a few samples."""
    shards = str(write_shards(folder / "shards", 4, kinds=("audio_video",)))
    small = {"data": {"init_args": {"num_workers": 0, "batch_size": 2, "val": None, "train": shards}}}
    grpo = {
        "trainer": {"max_steps": STEPS, "limit_val_batches": 0},
        "model": {"init_args": {"num_generations": 2, "sampling": {"max_completion_length": 4}}},
        **small,
    }
    evaluate = {
        "model": {"init_args": {"max_completion_length": 4}},
        "data": {"init_args": {"shards": shards, "batch_size": 2}},
    }
    base = {
        "title": "a few samples",
        "student": str(student),
        "traces": {"config": "cli_configs/traces_demo.yaml"},
        "sft": {"config": "cli_configs/sft_tiny.yaml", "student": "{run}/student"},
        "grpo": {"config": "cli_configs/grpo_tiny.yaml", "settings": grpo, "student": "{run}/student", "minutes": 1},
        "evaluate": {"config": "cli_configs/eval_demo.yaml", "settings": evaluate},
    }
    tables = {
        "T": {
            "title": "length reward",
            "reference": "base",
            "paper_columns": ["OmniBench"],
            "rows": [{"arm": "base", "paper": [50.2]}, {"arm": "short"}],
        }
    }
    (folder / "bases").mkdir()
    (folder / "arms").mkdir()
    (folder / "bases" / "few.yaml").write_text(yaml.safe_dump(base))
    short: dict[str, Any] = {"title": "short", "sft": None, "without_callbacks": ["avrt.rewards.LengthReward"]}
    (folder / "arms" / "short.yaml").write_text(yaml.safe_dump(short))
    (folder / "mine.yaml").write_text(yaml.safe_dump({"title": "mine", "tables": tables}))
    return folder / "mine.yaml"


def words_for(config: Path) -> list[str]:
    return ["experiments", "--config", str(config), "--base", "few", "--out", str(config.parent / "out")]


def test_stages_tables_and_page(
    student_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    config = write_experiment(tmp_path, student_folder)
    out = tmp_path / "out" / "few"
    assert main([*words_for(config), "--list"]) == 0
    assert not list(out.rglob("stage.json"))
    assert main(words_for(config)) == 0, capsys.readouterr().out
    states = {path: json.loads(path.read_text()) for path in out.rglob("stage.json")}
    assert [state["status"] for state in states.values()] == ["complete"] * 3
    (result,) = json.loads((out / "results" / "tables.json").read_text())
    assert [row["arm"] for row in result["rows"]] == ["base", "short"]
    assert all(0 <= row["cells"][0]["share"] <= 1 for row in result["rows"])
    assert result["rows"][1]["cells"][0]["difference"] is not None
    page = (out / "results" / "index.html").read_text()
    assert "mean reward" in page
    assert (out / "results" / "replies-AV" / "index.html").is_file()
    saved = yaml.safe_load(next(out.glob("grpo/*/run/config.yaml")).read_text())
    listed = [callback["class_path"] for callback in saved["trainer"]["callbacks"]]
    assert "avrt.rewards.AccuracyReward" in listed
    assert "avrt.rewards.LengthReward" not in listed

    before = {path: path.stat().st_mtime_ns for path in states}
    capsys.readouterr()
    assert main(words_for(config)) == 0
    assert "0 of 3 stages to run" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in states} == before


@pytest.mark.slow
def test_after_a_kill_the_running_stage_continues(student_folder: Path, tmp_path: Path) -> None:
    config = write_experiment(tmp_path, student_folder)
    base = tmp_path / "bases" / "few.yaml"
    settings = yaml.safe_load(base.read_text())
    settings["grpo"]["settings"]["trainer"]["max_steps"] = 70  # a checkpoint every 30
    base.write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "avrt", *words_for(config)]
    process = subprocess.Popen(command, env=environment(), start_new_session=True)
    deadline = time.monotonic() + 240
    while not list((tmp_path / "out").rglob("step=*.ckpt")):
        assert time.monotonic() < deadline, "no checkpoint"
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert subprocess.run(command, env=environment(), check=False).returncode == 0
    (log,) = (tmp_path / "out").glob("few/grpo/*/stage.log")
    text = log.read_text()
    assert text.count("$ python -m avrt fit") == 2
    assert re.search(r"[Rr]estor", text.rsplit("$ python -m avrt fit", 1)[1]), "it began anew"
