"""Files of other programs: lmms-eval's samples, and Video-MME's results template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from avrt.cli import main
from avrt.evaluation.benchmarks import BENCHMARKS, Item
from avrt.evaluation.prediction_files import read_predictions
from avrt.evaluation.records.log import read_records
from tests.evaluation.test_benchmarks import load

TEMPLATE = """[
    {
        "video_id": "001",
        "duration": "short",
        "domain": "Knowledge",
        "sub_category": "Humanity & History",
        "questions": [
            {
                "question_id": "001-1",
                "task_type": "Counting Problem",
                "question": "Which ends with \\",]\\"?",
                "options": ["A. Apples.", "B. Candles.", "C. Berries.", "D. All, }"],
                "answer": "C",
                "response": "C. Berries.",
            },
            {
                "question_id": "001-2",
                "task_type": "Information Synopsis",
                "question": "What is the genre?",
                "options": ["A. News.", "B. Film.", "C. Vlog.", "D. Talk."],
                "answer": "A",
                "response": "Answer: D.",
            },
        ]
    },
]
"""
"""The form of the authors' own file, with its commas before closing brackets."""


def lmms_rows(items: list[Item]) -> list[dict[str, Any]]:
    """Samples as lmms-eval writes them: without `doc` and `arguments`; `resps` only where it differs."""
    rows: list[dict[str, Any]] = []
    for item in items:
        listed = "\n".join(
            f"{letter}. {text}" for letter, text in zip(item.sample.letters, item.sample.options, strict=True)
        )
        rows.append(
            {
                "doc_id": item.index,
                "target": item.sample.gold,
                "filtered_resps": item.sample.gold,
                "token_counts": [{"input_tokens": 900, "output_tokens": 3}],
                "doc_hash": "0" * 64,
                "accuracy": {"overall": 1.0},
                "input": f"{item.sample.question}\n{listed}\nAnswer with the option's letter.",
            }
        )
    return rows


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["dailyomni", "mmau", "mmar", "omnibench"])
def test_samples_of_lmms_eval(real_data: Path, tmp_path: Path, name: str) -> None:
    items = load(real_data, name)
    rows = lmms_rows(items)
    rows[1] |= {"resps": "<think>hm</think>\nB", "filtered_resps": "B"}  # the thinking was stripped for scoring
    replies = read_predictions(write(tmp_path / "samples.jsonl", rows), items).replies
    assert {item: reply.text for item, (reply,) in replies.items()} == {
        item.sample.id: "<think>hm</think>\nB" if item.index == 1 else item.sample.gold for item in items
    }
    (first,) = replies[items[0].sample.id]
    assert (first.prompt_tokens, first.completion_tokens) == (900, 3)


def test_repeats_are_chosen_by_number(real_data: Path, tmp_path: Path) -> None:
    items = load(real_data, "omnibench")
    rows = lmms_rows(items)
    for row in rows:
        row |= {"resps": ["A", "B", "C"], "filtered_resps": "A"}
    file = read_predictions(write(tmp_path / "samples.jsonl", rows), items)
    assert file.repeats == 3
    assert [{reply.text for (reply,) in file.only(n).replies.values()} for n in (1, 2, 3)] == [{"A"}, {"B"}, {"C"}]
    with pytest.raises(ValueError, match="--repeat: must be 1 to 3"):
        file.only(4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[0].update(doc_id=1), "entry 1: `doc_id` 1 is item"),
        (lambda rows: rows[0].update(input=rows[1]["input"]), "whose question is not in the sample"),
        (lambda rows: rows[0].update(doc_id="0"), r"`doc_id` \('0'\) names an item"),
        (lambda rows: rows[0].update(filtered_resps=[0.5, 0.1]), "`filtered_resps` must have a reply as text"),
        (lambda rows: rows[0].pop("filtered_resps"), "entry 1: needs `id` and `text`"),
    ],
)
def test_samples_that_do_not_fit_are_refused(real_data: Path, tmp_path: Path, change: Any, message: str) -> None:
    items = load(real_data, "dailyomni")
    rows = lmms_rows(items)
    change(rows)
    with pytest.raises(ValueError, match=message):
        read_predictions(write(tmp_path / "samples.jsonl", rows), items)


def test_options_in_another_order_are_refused(real_data: Path, tmp_path: Path) -> None:
    """A letter would name another option."""
    items = load(real_data, "dailyomni")
    rows = lmms_rows(items)
    question, *options, last = rows[0]["input"].split("\n")
    rows[0]["input"] = "\n".join([question, *reversed(options), last])
    with pytest.raises(ValueError, match="does not list the options"):
        read_predictions(write(tmp_path / "samples.jsonl", rows), items)


def test_videommes_present_template_is_read_and_its_replies_imported(tmp_path: Path) -> None:
    file = tmp_path / "output_test_template.json"
    file.write_text(TEMPLATE)
    with pytest.raises(json.JSONDecodeError):
        json.loads(TEMPLATE)
    items = BENCHMARKS["videomme"].load(tmp_path)
    assert [item.sample.options[3] for item in items] == ["All, }", "Talk."]
    assert [item.sample.gold for item in items] == ["C", "A"]
    assert items[0].sample.question == 'Which ends with ",]"?'
    assert items[1].categories == {
        "duration": "short",
        "domain": "Knowledge",
        "sub_category": "Humanity & History",
        "task_type": "Information Synopsis",
    }
    words = ["--file", str(file), "--benchmark", "videomme", "--data", str(tmp_path), "--model", "Other-7B"]
    assert main(["import-predictions", str(tmp_path / "run"), *words]) == 0
    records = read_records(tmp_path / "run" / "videomme")
    assert [(r.text, r.correct_strict, r.correct_official) for r in records] == [
        ("C. Berries.", True, True),
        ("Answer: D.", False, False),
    ]


def test_a_template_of_other_questions_is_refused(real_data: Path, tmp_path: Path) -> None:
    """The authors replaced questions in June 2024 and kept their ids."""
    (tmp_path / "results.json").write_text(TEMPLATE)
    with pytest.raises(ValueError, match="'001-1' has another question than here"):
        read_predictions(tmp_path / "results.json", load(real_data, "videomme"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"video_id": "1", "questions": 7}]', "entry 1: `questions` must be a list"),
        ('[{"video_id": "1", "questions": [{"question_id": "1-1"}]}]', "entry 1 has no key 'options'"),
        ('[{"questions": [{"question_id": "1-1", "options": ["A. x", "B. y"]}]}]', "entry 1 has no key 'video_id'"),
    ],
)
def test_a_wrong_template_names_file_and_entry(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "output_test_template.json").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        BENCHMARKS["videomme"].load(tmp_path)
    assert "output_test_template.json" in str(caught.value)


def test_a_full_file_can_be_imported_for_a_subset(real_data: Path, tmp_path: Path) -> None:
    data = tmp_path / "dailyomni"
    data.mkdir()
    (data / "qa.json").write_bytes((real_data / "annotations" / "dailyomni_qa.json").read_bytes())
    items = load(real_data, "dailyomni")
    write(tmp_path / "f.jsonl", [{"id": item.sample.id, "text": item.sample.gold} for item in items])
    (tmp_path / "easy.txt").write_text("".join(f"{item.sample.id}\n" for item in items[:7]))
    words = ["--file", str(tmp_path / "f.jsonl"), "--benchmark", "dailyomni", "--data", str(tmp_path), "--model", "M"]
    assert main(["import-predictions", str(tmp_path / "run"), *words, "--subset", str(tmp_path / "easy.txt")]) == 0
    assert len(read_records(tmp_path / "run" / "dailyomni")) == 7
