"""Imported replies become records with the same scores."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from avrt.cli import main
from avrt.evaluation.question_sets import QuestionsConfig, QuestionSet, open_question_sets
from avrt.evaluation.records.log import read_records
from avrt.evaluation.records.run_info import RunInfo
from avrt.evaluation.scoring import score_run


@pytest.fixture
def questions(real_data: Path) -> QuestionSet:
    (found,) = open_question_sets(QuestionsConfig("dailyomni", str(real_data / "benchmarks")))
    return found


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run_import(run: Path, file: Path, data: Path, *words: str) -> int:
    where = ["--benchmark", "dailyomni", "--data", str(data), "--model", "Rival-7B"]
    return main(["import-predictions", str(run), "--file", str(file), *where, *words])


def test_plain_lines(questions: QuestionSet, real_data: Path, tmp_path: Path) -> None:
    items = questions.items
    rows: list[dict[str, Any]] = [
        {"id": items[2].sample.id, "text": f"The answer is... Answer: {items[2].sample.gold}"},
        {"id": items[0].sample.id, "text": items[0].sample.gold},
        {"id": items[1].sample.id, "text": "<think>hm", "finish_reason": "length"},
    ]
    run = tmp_path / "other"
    file = write(tmp_path / "replies.jsonl", rows)
    assert run_import(run, file, real_data / "benchmarks") == 0
    records = read_records(run / "dailyomni")
    assert [(r.text, r.failure, r.correct_strict, r.error_type) for r in records] == [
        (rows[1]["text"], None, True, "none"),
        ("<think>hm", None, False, "instruction_format"),
        (rows[0]["text"], None, True, "none"),
        ("", "no_prediction", False, "no_reply"),
    ]
    info = RunInfo.read(run / "dailyomni")
    assert (info.run, info.model, info.profile, info.decoding) == (
        "other",
        "Rival-7B",
        "robust",
        {"imported": "replies.jsonl"},
    )
    (scored,) = score_run(run)
    assert (scored.metrics["strict"]["correct"], scored.metrics["strict"]["items"]) == (2, 4)
    # The missing reply may come later; another reply to the same item may not.
    write(file, [{"id": items[3].sample.id, "text": items[3].sample.gold}])
    assert run_import(run, file, real_data / "benchmarks") == 0
    assert score_run(run)[0].metrics["strict"]["correct"] == 3
    write(file, [{"id": items[3].sample.id, "text": "E"}])
    assert run_import(run, file, real_data / "benchmarks") == 1
    assert score_run(run)[0].metrics["strict"]["correct"] == 3


def test_media_need_not_be_there(questions: QuestionSet, real_data: Path, tmp_path: Path) -> None:
    """Annotations are enough: the model that replied had the media."""
    data = tmp_path / "dailyomni"
    data.mkdir()
    (data / "qa.json").write_bytes((real_data / "annotations" / "dailyomni_qa.json").read_bytes())
    (found,) = open_question_sets(QuestionsConfig("dailyomni", str(tmp_path)))
    assert all(item.missing for item in found.items)
    rows = [{"id": item.sample.id, "text": f"<answer>{item.sample.gold}</answer>"} for item in found.items]
    assert run_import(tmp_path / "r", write(tmp_path / "f.jsonl", rows), tmp_path, "--format", "tags") == 0
    metrics = json.loads((tmp_path / "r" / "dailyomni" / "metrics.json").read_text())
    assert (metrics["strict"]["correct"], metrics["strict"]["items"]) == (1197, 1197)


def harness_rows(questions: QuestionSet) -> list[dict[str, Any]]:
    return [
        {
            "doc_id": item.index,
            "doc": {"Question": item.sample.question, "video_id": item.sample.source},
            "resps": [[item.sample.gold]],
            "filtered_resps": ["ignored"],
            "filter": name,
        }
        for name in ("none", "strict")
        for item in questions.items
    ]


def test_samples_of_the_harness(questions: QuestionSet, real_data: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "samples_dailyomni.jsonl", harness_rows(questions))
    assert run_import(tmp_path / "r", file, real_data / "benchmarks") == 0
    assert score_run(tmp_path / "r")[0].metrics["strict"]["correct"] == 4


def test_our_own_samples_come_back_as_they_were(questions: QuestionSet, real_data: Path, tmp_path: Path) -> None:
    rows = [{"id": item.sample.id, "text": text} for item, text in zip(questions.items, "ABCD", strict=True)]
    assert run_import(tmp_path / "one", write(tmp_path / "f.jsonl", rows), real_data / "benchmarks") == 0
    assert main(["score", str(tmp_path / "one"), "--harness", str(tmp_path / "harness")]) == 0
    (file,) = (tmp_path / "harness").glob("*/samples_avrt_dailyomni_*.jsonl")
    assert run_import(tmp_path / "two", file, real_data / "benchmarks") == 0
    one, two = (read_records(tmp_path / run / "dailyomni") for run in ("one", "two"))
    assert one == two


def test_all_repeats_are_one_run(
    questions: QuestionSet, real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Right answers by question: 2, 1, 0 and, in the one reply that there is, 1; a reply that is missing is wrong."""
    rows = harness_rows(questions)
    for row, right in zip(rows, [(1, 1), (0, 1), (0, 0), (1,)] * 2, strict=True):
        gold = row["resps"][0][0]
        row["resps"] = [[gold if yes else chr(ord("A") + (gold == "A")) for yes in right]]
    file = write(tmp_path / "f.jsonl", rows)
    for _ in range(2):  # a second import of the same file changes nothing
        assert run_import(tmp_path / "r", file, real_data / "benchmarks") == 0
        metrics = score_run(tmp_path / "r")[0].metrics
        assert metrics["strict"]["correct"] == 2
        assert metrics["repeats"]["replies"] == 2
        assert metrics["repeats"]["mean"]["accuracy"] == 4 / 8
        assert metrics["repeats"]["pass_at"]["2"] == 3 / 4
    rows[1]["resps"] = [["C", "C"]]
    assert run_import(tmp_path / "r", write(file, rows[:4]), real_data / "benchmarks") == 1
    assert "already has another reply" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[0].update(doc_id=99), r"`doc_id` \(99\) names an item"),
        (lambda rows: rows[0].update(doc_id=1), "`doc_id` 1 is item"),
        (lambda rows: rows[0].update(resps=[[7]]), "`resps` must have a reply as text"),
        (lambda rows: rows[0].update(resps=[]), "`resps` must have a reply as text"),
        (lambda rows: rows[4].update(resps=[["E"]]), "entry 5: an earlier entry gives another reply"),
        (lambda rows: rows.__setitem__(0, {"id": "unknown", "text": "A"}), "entry 1: 'unknown'"),
        (lambda rows: rows.__setitem__(0, {"id": "d6b4OmUFt7I-0"}), "needs `id` and `text`"),
        (lambda rows: rows.__setitem__(0, {"id": "d6b4OmUFt7I-0", "text": None}), "`text` of .*got null"),
        (lambda rows: rows.clear(), "no predictions"),
        (lambda rows: rows[1].update(doc_id=True), r"`doc_id` \(True\) names an item.*must be the item's number"),
        (
            lambda rows: rows[0].update(doc={"id": "d6b4OmUFt7I-0", "question": "Another?"}),
            "`doc.id` is 'd6b4OmUFt7I-0', which has another question here",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    change: Any,
    message: str,
    questions: QuestionSet,
    real_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = harness_rows(questions)
    change(rows)
    file = write(tmp_path / "f.jsonl", rows)
    assert run_import(tmp_path / "r", file, real_data / "benchmarks") == 1
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "r").exists()
