"""The whole demo with its documented results: `pytest -m slow tests/end_to_end/test_demo.py`."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from avrt.demo.walkthrough import CURVE_WINDOW, read_accuracy, read_curve


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_demo_learns_what_needs_both_streams(tmp_path: Path) -> None:
    out, report = tmp_path / "demo", tmp_path / "reports" / "demo.json"
    words = [sys.executable, "-m", "avrt", "demo", "--out", str(out), "--json", str(report)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)

    result = json.loads(report.read_text(encoding="utf-8"))
    assert set(result) == {"base", "sft", "grpo", "seconds"}
    assert all(set(result[stage]) == {"AV", "A", "V"} for stage in ("base", "sft", "grpo"))
    assert result["base"]["AV"] <= 0.3
    assert result["grpo"]["AV"] >= 0.9
    # One stream alone answers one question in two, by construction.
    assert result["grpo"]["A"] <= 0.6
    assert result["grpo"]["V"] <= 0.6
    rewards = read_curve(out / "grpo", "reward")
    first, last = rewards[:CURVE_WINDOW], rewards[-CURVE_WINDOW:]
    assert sum(last) / len(last) > sum(first) / len(first) + 0.1

    commands = [shlex.split(line)[4:] for line in done.stdout.splitlines() if line.startswith("$ python -m avrt ")]
    assert [command[0] for command in commands] == [
        *("demo", "pack", "pack", "demo", "traces", "demo"),
        *("test", "test", "test"),
        *("fit", "test", "test", "test"),
        *("fit", "test", "test", "test"),
        *("compare", "report"),
    ]
    assert f"tensorboard --logdir {out}" in done.stdout
    assert (out / "report" / "index.html").is_file()

    # The printed commands are those that ran: one of them gives the same result in a process of its own.
    again = tmp_path / "again"
    evaluation = commands[-5]
    command = [str(again) if word == str(out / "evaluation" / "grpo-AV") else word for word in evaluation]
    assert command != evaluation
    subprocess.run([sys.executable, "-m", "avrt", *command], check=True)
    assert read_accuracy(again) == result["grpo"]["AV"]
