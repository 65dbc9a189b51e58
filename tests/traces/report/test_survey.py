"""The numbers of a page of traces are those that `traces` writes, and its samples are a fair choice."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from avrt.traces.report.items import meaning_of, split_thinking
from avrt.traces.report.page import PageOptions, write_trace_report
from avrt.traces.report.survey import TraceRun, distribution_of, survey
from tests.traces.question_set import audio_right, make_config, merge_formatted, vision_right
from tests.traces.report.trace_pages import FinishedRun

COUNT = 40


def reason_of(index: int) -> str:
    """The filter's reason, from the rules of the question set."""
    if not vision_right(index):
        return "vision_wrong" if audio_right(index) else "both_wrong"
    if not audio_right(index):
        return "audio_wrong"
    return "kept" if merge_formatted(index) else "merge_trailing_text"


def test_the_numbers_are_those_of_the_written_traces(finished: FinishedRun) -> None:
    found = survey(TraceRun(finished.config), 5, 0)
    assert found.reasons == finished.statistics["yield"] == dict(Counter(map(reason_of, range(COUNT))))
    assert {stage: dict(counts) for stage, counts in found.outcomes.items()} == finished.statistics["outcomes"]
    assert found.splits == finished.statistics["splits"]
    assert found.unit == finished.statistics["unit"]
    assert (found.considered, found.missing) == (COUNT, 0)
    assert next(iter(found.reasons)) == "kept"


def test_distributions(finished: FinishedRun) -> None:
    found = survey(TraceRun(finished.config), 5, 0)
    assert found.input.shares() == {
        "question_types": {"Come From": 35.0, "Which": 65.0},
        "answer_letters": {"A": 25.0, "B": 25.0, "C": 25.0, "D": 25.0},
        "modalities": {"Both": 100.0},
    }
    kept = [index for index in range(COUNT) if reason_of(index) == "kept"]
    assert found.kept.answer_letters == Counter("ABCD"[index % 4] for index in kept)
    assert found.kept.question_types["Come From"] == sum(index % 3 == 0 for index in kept)


def test_the_choice_is_bounded_seeded_and_of_every_reason(finished: FinishedRun) -> None:
    run = TraceRun(finished.config)
    chosen = survey(run, 3, 0).chosen
    for reason, indices in chosen.items():
        assert len(indices) == min(3, sum(reason_of(index) == reason for index in range(COUNT)))
        assert {reason_of(index) for index in indices} == {reason}
    assert survey(run, 3, 0).chosen == chosen
    assert survey(run, 3, 1).chosen != chosen
    more = survey(run, 4, 0).chosen
    assert all(set(chosen[reason]) <= set(more[reason]) for reason in chosen)


def test_every_sample_is_chosen_equally_often(finished: FinishedRun) -> None:
    run = TraceRun(finished.config)
    wrong = [index for index in range(COUNT) if reason_of(index) == "vision_wrong"]
    seeds = 60
    counts = Counter(index for seed in range(seeds) for index in survey(run, 2, seed).chosen["vision_wrong"])
    assert set(counts) == set(wrong)
    expected = 2 * seeds / len(wrong)
    assert max(abs(counts[index] - expected) for index in wrong) < 4 * expected**0.5


def test_an_unfinished_run_names_its_missing_calls(
    finished: FinishedRun, question_shards: Path, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    ledger.mkdir()
    (source,) = (Path(finished.config.ledger)).glob("*.jsonl")
    lines = source.read_bytes().splitlines(keepends=True)
    vision = [line for line in lines if json.loads(line)["stage"] == "vision"]
    (ledger / "calls.jsonl").write_bytes(b"".join(vision[:30]))
    config = make_config(question_shards, tmp_path, "http://localhost:1/v1")
    found = survey(TraceRun(config), 5, 0)
    assert found.missing == COUNT + 10
    assert found.splits == {}
    page = write_trace_report(config, tmp_path / "page", PageOptions(media=False)).page
    assert f"{COUNT + 10} calls are missing" in page.read_text()


def test_an_empty_ledger_is_refused(question_shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ledger: .* has no finished call"):
        write_trace_report(make_config(question_shards, tmp_path, "http://localhost:1/v1"), tmp_path / "page")


def test_the_distribution_of_annotation_files(tmp_path: Path) -> None:
    rows = [
        {
            "id": number,
            "video_name": f"clip{number}",
            "video_id": number,
            "question_text": "What is heard?",
            "multi_choice": ["cat", "dog", "owl", "cow"],
            "answer": number % 2,
            "question_relation": "Sound" if number == 0 else "Both",
            "question_type": "Come From" if number < 3 else "Which",
        }
        for number in range(4)
    ]
    for name, part in (("train.json", rows[:3]), ("val.json", rows[3:])):
        (tmp_path / name).write_text(json.dumps(part))
    shares = distribution_of([tmp_path / "train.json", tmp_path / "val.json"]).shares()
    assert shares == {
        "question_types": {"Come From": 75.0, "Which": 25.0},
        "answer_letters": {"A": 50.0, "B": 50.0},
        "modalities": {"Both": 75.0, "Sound": 25.0},
    }


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("kept", "passes the filter"),
        ("audio_wrong", "audio: another option"),
        ("audio_length", "audio: cut by the token limit"),
        ("audio_flamingo_no_stream", "audio_flamingo: the clip lacks what this teacher is sent"),
        ("merge_trailing_text", "merge: text outside the tags"),
        ("of_another_version", ""),
    ],
)
def test_reasons_in_words(reason: str, words: str) -> None:
    assert meaning_of(reason, ["audio", "audio_flamingo", "merge"]) == words


def test_thinking_is_separated_from_the_reply(finished: FinishedRun) -> None:
    run = TraceRun(finished.config)
    one = run.decide(3)
    record = one.replies["vision"].record
    assert record is not None
    assert split_thinking(record) == ("I look at clip 3.", "It shows fur.\nAnswer: (D) white hare")
    audio = one.replies["audio"].record
    assert audio is not None
    assert split_thinking(audio)[0] == ""
    assert one.merged is not None
    assert split_thinking(one.merged) == ("Heard and seen in clip 3.", "<answer>D</answer>")
