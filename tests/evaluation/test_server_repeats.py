"""Several replies per question from a server: each is called for, recorded and counted; lost ones are called again."""

from __future__ import annotations

import json
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from avrt.evaluation import server_runner
from avrt.evaluation.records.log import read_all_records
from tests.evaluation.test_run_server import ModelServer, choice, evaluate, question

SETTINGS = ("questions.benchmarks=dailyomni", "questions.limit=3", "repeats=4", "server.sampling.temperature=0.7")


def test_replies_of_a_server(real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads((real_data / "benchmarks" / "dailyomni" / "qa.json").read_text())[:3]
    gold = {row["Question"]: row["Answer"] for row in rows}
    wrong = {row["Question"]: "AB"[row["Answer"] == "A"] for row in rows}
    asked: Counter[str] = Counter()
    lock, failing = threading.Lock(), True

    def answer(body: dict[str, Any], before: int) -> tuple[int, dict[str, Any]]:
        """The first question is right in 3 of 4 replies, the second in 1, the third never; one call fails for good."""
        text = question(body)
        with lock:
            asked[text] += 1
            number = asked[text]
        if failing and text == rows[0]["Question"] and number == 4:
            return 400, {"error": {"message": "no"}}
        right = number % 4 != 0 if text == rows[0]["Question"] else number == 2 and text == rows[1]["Question"]
        return choice(gold[text] if right else wrong[text])

    run = tmp_path / "run"
    server = ModelServer(answer)
    with server.running() as url:
        assert evaluate(url, run, real_data / "benchmarks", *SETTINGS) == 0
        assert Counter(record.variant for record in read_all_records(run / "dailyomni")) == {
            (repeat, None): 3 for repeat in range(4)
        }
        assert sum(asked.values()) == 12
        failing = False
        assert evaluate(url, run, real_data / "benchmarks", *SETTINGS) == 0
        assert sum(asked.values()) == 13, "only the reply that failed is asked for again"
    metrics = json.loads((run / "dailyomni" / "metrics.json").read_text())
    assert (metrics["items"], metrics["subset"], metrics["complete"]) == (3, "first 3", True)
    solved = sum(any(r.correct_strict for r in read_all_records(run / "dailyomni") if r.index == i) for i in range(3))
    repeats = metrics["repeats"]
    right = [sum(bool(r.correct_strict) for r in read_all_records(run / "dailyomni") if r.index == i) for i in range(3)]
    assert sorted(right) == [0, 1, 4]  # the failed reply of the first question was its only wrong one
    assert repeats["mean"]["accuracy"] == pytest.approx(5 / 12)
    assert repeats["pass_at"] == pytest.approx({"1": 5 / 12, "2": (1 + 1 / 2) / 3, "4": solved / 3})
    assert repeats["majority"]["correct"] == 1
    assert "pass@4" in capsys.readouterr().out


def test_a_clip_is_decoded_once_for_all_its_replies(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: Counter[str] = Counter()

    def build(questions: Any, item: Any, *settings: Any) -> Any:
        decoded[item.sample.id] += 1
        return server_runner_build(questions, item, *settings)

    server_runner_build = server_runner.build_request
    monkeypatch.setattr(server_runner, "build_request", build)
    server = ModelServer(lambda body, before: choice("A"))
    with server.running() as url:
        assert evaluate(url, tmp_path / "run", real_data / "benchmarks", *SETTINGS) == 0
    assert set(decoded.values()) == {1}
    assert len(decoded) == 3


def test_a_refused_reply_is_final_beside_others(real_data: Path, tmp_path: Path) -> None:
    """The model refuses one of four replies: that is what it replies, and nothing is called for again."""
    asked: Counter[str] = Counter()
    lock = threading.Lock()

    def answer(body: dict[str, Any], before: int) -> tuple[int, dict[str, Any]]:
        with lock:
            asked[question(body)] += 1
            refused = asked[question(body)] == 2
        return (
            (200, {"choices": [{"message": {"refusal": "No."}, "finish_reason": "stop"}]}) if refused else choice("A")
        )

    run = tmp_path / "run"
    server = ModelServer(answer)
    with server.running() as url:
        for _ in range(2):
            assert evaluate(url, run, real_data / "benchmarks", *SETTINGS) == 0
            assert set(asked.values()) == {4}
    failures = Counter((record.id, record.failure) for record in read_all_records(run / "dailyomni"))
    assert sorted(failures.values()) == [1, 1, 1, 3, 3, 3]
    assert {failure for _, failure in failures} == {None, "reply_interrupted"}


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        (("repeats=2",), "temperature"),
        (("repeats=2", "server.sampling.temperature=0.7", "server.sampling.seed=1"), "seed"),
        (("repeats=0",), "repeats"),
        (("questions.limit=0",), "limit"),
    ],
)
def test_settings_that_cannot_work(
    settings: tuple[str, ...], key: str, real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate("http://127.0.0.1:9/v1", tmp_path / "run", real_data / "benchmarks", *settings) != 0
    assert key in capsys.readouterr().err
    assert not (tmp_path / "run" / "dailyomni").exists()
