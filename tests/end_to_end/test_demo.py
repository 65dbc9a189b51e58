"""The whole demo with its documented results: `pytest -m slow tests/end_to_end/test_demo.py`."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from avrt.demo.walkthrough import CURVE_WINDOW, read_accuracy, read_curve


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_grpo_lifts_the_cold_start_on_held_out_questions(tmp_path: Path, seed: int) -> None:
    out = tmp_path / "demo"
    result, _ = _run_demo(out, "--seed", str(seed))
    assert result["base"]["AV"] <= 0.3
    assert result["grpo"]["AV"] >= 0.85
    assert result["grpo"]["AV"] >= result["sft"]["AV"] + 0.15
    # One stream alone answers one question in two, by construction.
    assert 0.4 <= result["grpo"]["A"] <= 0.55
    assert 0.4 <= result["grpo"]["V"] <= 0.55
    rewards = read_curve(out / "grpo", "reward")
    first, last = rewards[:CURVE_WINDOW], rewards[-CURVE_WINDOW:]
    assert sum(last) / len(last) > sum(first) / len(first) + 0.1


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_quick_demo_runs_every_stage_as_a_command(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    result, printed = _run_demo(out, "--quick")
    commands = [shlex.split(line)[4:] for line in printed.splitlines() if line.startswith("$ python -m avrt ")]
    assert [command[0] for command in commands] == [
        *("demo", "pack", "pack", "demo", "traces", "demo"),
        *("test", "test", "test"),
        *("fit", "test", "test", "test"),
        *("fit", "test", "test", "test"),
        *("compare", "report"),
    ]
    assert f"tensorboard --logdir {out}" in printed
    assert (out / "report" / "index.html").is_file()

    # The printed commands are those that ran: one of them gives the same result in a process of its own.
    again = tmp_path / "again"
    evaluation = commands[-5]
    command = [str(again) if word == str(out / "evaluation" / "grpo-AV") else word for word in evaluation]
    assert command != evaluation
    subprocess.run([sys.executable, "-m", "avrt", *command], check=True)
    assert read_accuracy(again) == result["grpo"]["AV"]


def _run_demo(out: Path, *options: str) -> tuple[dict[str, Any], str]:
    """Run the demo; returns its figures and what it printed."""
    report = out.parent / "reports" / "demo.json"
    words = [sys.executable, "-m", "avrt", "demo", "--out", str(out), "--json", str(report), *options]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    result = json.loads(report.read_text(encoding="utf-8"))
    assert set(result) == {"base", "sft", "grpo", "seconds"}
    assert all(set(result[stage]) == {"AV", "A", "V"} for stage in ("base", "sft", "grpo"))
    return result, done.stdout
