"""Evaluations with several replies per question, thinking budgets and a limit, of a shortly trained student."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from avrt.evaluation.records.log import read_all_records, read_records
from avrt.evaluation.records.record import Record
from avrt.evaluation.records.run_info import RunInfo
from tests.distributed.runs import write_shards
from tests.lightning_modules.callbacks.tiny_runs import events, scalars, texts
from tests.lightning_modules.evaluations import evaluate, train_student

QUESTIONS, REPEATS, BUDGETS = 9, 3, (0, 12)
SETTINGS: dict[str, Any] = {
    "benchmarks": "mine",
    "limit": QUESTIONS,
    "batch_size": 4,
    "model.init_args.repeats": REPEATS,
    "model.init_args.temperature": 1.0,
    "model.init_args.thinking_curve": list(BUDGETS),
}


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("questions"), samples=20)


@pytest.fixture(scope="module")
def student(student_folder: Path, questions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("trained") / "sft"
    train_student(run, student_folder, questions)
    return run / "student"


@pytest.fixture(scope="module")
def run(student: Path, questions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several") / "run"
    assert evaluate(folder, student, shards=questions, **SETTINGS) == 0
    return folder


def without_time(folder: Path) -> list[Record]:
    return [replace(record, latency_seconds=None) for record in read_all_records(folder)]


def test_every_reply_is_recorded(run: Path) -> None:
    records = read_all_records(run / "mine")
    variants = Counter((record.repeat, record.thinking_budget) for record in records)
    assert variants == {(i, budget): QUESTIONS for i in range(REPEATS) for budget in (None, *BUDGETS)}
    assert len(read_records(run / "mine")) == QUESTIONS
    info = RunInfo.read(run / "mine")
    assert (info.items, info.subset) == (QUESTIONS, f"first {QUESTIONS}")
    texts_of = {(record.id, record.repeat): record.text for record in records if record.thinking_budget is None}
    assert len(set(texts_of.values())) > QUESTIONS, "sampled replies differ"
    for record in records:
        if record.thinking_budget == 0:
            assert record.text.startswith("<think></think>\n<answer>")
        elif record.thinking_budget is not None:
            whole = texts_of[record.id, record.repeat]
            assert record.text == whole or "</think>\n<answer>" in record.text


def test_the_numbers_by_hand(run: Path) -> None:
    metrics = json.loads((run / "mine" / "metrics.json").read_text())
    groups: dict[str, list[Record]] = {}
    for record in read_all_records(run / "mine"):
        if record.thinking_budget is None:
            groups.setdefault(record.id, []).append(record)
    right = [[bool(record.correct_strict) for record in group] for group in groups.values()]
    repeats = metrics["repeats"]
    assert (repeats["replies"], repeats["items"]) == (REPEATS, QUESTIONS)
    assert repeats["mean"]["accuracy"] == pytest.approx(sum(map(sum, right)) / (REPEATS * QUESTIONS))
    assert list(repeats["pass_at"]) == ["1", "2", "3"]
    for k in range(1, REPEATS + 1):
        solved = [sum(map(any, combinations(row, k))) / len(list(combinations(row, k))) for row in right]
        assert repeats["pass_at"][str(k)] == pytest.approx(sum(solved) / QUESTIONS)
    assert metrics["strict"]["correct"] == sum(row[0] for row in right)
    for point in metrics["thinking_curve"]:
        part = [r for r in read_all_records(run / "mine") if r.thinking_budget == point["budget"]]
        assert point["accuracy"] == pytest.approx(sum(bool(r.correct_strict) for r in part) / len(part))
    assert [point["budget"] for point in metrics["thinking_curve"]] == [*BUDGETS, None]


def test_the_curves_and_tables_are_logged(run: Path) -> None:
    found, metrics = events(run), json.loads((run / "mine" / "metrics.json").read_text())
    curve = [(point["budget"], pytest.approx(point["accuracy"])) for point in metrics["thinking_curve"][:-1]]
    assert scalars(found, "test/mine/accuracy_by_budget") == curve
    assert scalars(found, "test/mine/majority_accuracy") == [
        (0, pytest.approx(metrics["repeats"]["majority"]["accuracy"]))
    ]
    assert "mine" in texts(found, "evaluation/scores")[0]
    assert read_records(run / "mine")[0].question.split()[0] in texts(found, "evaluation/mine")[0]
    assert found.Tags()["images"] == ["evaluation/mine/frames"] or found.Tags()["audio"] == ["evaluation/mine/audio"]


def test_lost_replies_are_sampled_again_as_they_were(run: Path, student: Path, questions: Path, tmp_path: Path) -> None:
    """Also with one line left of an item's replies, in another folder and another order of batches."""
    again = tmp_path / "again"
    (again / "mine").mkdir(parents=True)
    (again / "mine" / "run.json").write_bytes((run / "mine" / "run.json").read_bytes())
    lines = (run / "mine" / "records.rank0.jsonl").read_bytes().splitlines(keepends=True)
    (again / "mine" / "records.rank0.jsonl").write_bytes(b"".join(lines[: len(lines) // 2 + 1]))
    assert evaluate(again, student, shards=questions, **SETTINGS) == 0
    assert without_time(again / "mine") == without_time(run / "mine")
    assert (again / "mine" / "metrics.json").read_bytes() == (run / "mine" / "metrics.json").read_bytes()


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"model.init_args.temperature": 0.0}, "model.repeats"),
        ({"model.init_args.thinking_budget": 4}, "model.thinking_budget"),
        ({"model.init_args.thinking_curve": [10**6]}, "model.thinking_curve"),
        ({"model.init_args.student.answer_format": "letter"}, "model.thinking_curve"),
        ({"model.init_args.repeats": 0}, "model.repeats"),
        ({"limit": 0}, "data.limit"),
    ],
)
def test_settings_that_cannot_work(
    change: dict[str, Any], key: str, student: Path, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(tmp_path / "run", student, shards=questions, **(SETTINGS | change)) == 2
    assert key in capsys.readouterr().err
    assert not (tmp_path / "run" / "mine").exists()
