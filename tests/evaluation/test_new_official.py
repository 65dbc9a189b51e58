"""The official rules of the newer benchmarks, on replies whose outcome the authors' own code computed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from avrt.evaluation.benchmarks import BENCHMARKS
from avrt.evaluation.benchmarks.videomme_v2 import group_score
from avrt.evaluation.records.record import Record
from avrt.evaluation.records.run_info import RunInfo
from avrt.evaluation.scoring import grade_record, summarize

OUTCOMES = json.loads(Path(__file__).with_name("authors_outcomes.json").read_text(encoding="utf-8"))
"""By benchmark: the options, and ``[reply, gold letter, outcome]`` as the authors' functions give it (None: left out).

OmniVideoBench's functions got the reply behind a prompt, as in its scripts.
"""


def record(benchmark: str, text: str, **fields: object) -> Record:
    values: dict[str, object] = {
        "id": "001-1",
        "index": 0,
        "question": "Which?",
        "options": ("Yes", "No"),
        "gold": "A",
        "categories": {},
    }
    return Record(benchmark=benchmark, text=text, **(values | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", OUTCOMES)
def test_replies_are_scored_as_by_the_authors(name: str) -> None:
    official = BENCHMARKS[name].official
    assert official is not None
    options = tuple(OUTCOMES[name]["options"])
    for text, gold, outcome in OUTCOMES[name]["replies"]:
        assert official(record(name, text, options=options, gold=gold)) is outcome, (text, gold)


@pytest.mark.parametrize("name", OUTCOMES)
def test_an_item_without_a_reply_is_never_right(name: str) -> None:
    failed = replace(record(name, ""), failure="missing_media", finish_reason="missing")
    counts = name in ("worldsense", "av_odyssey")  # the authors' scripts keep these in the denominator
    assert grade_record(failed, "robust").correct_official is (False if counts else None)


def group(structure: str, video: str = "001", level: str = "2") -> list[Record]:
    kind = "relevance" if structure == "unknown" else "logic"
    categories = {"group_type": kind, "group_structure": structure, "level": level}
    return [
        record("videomme_v2", "", id=f"{video}-{number + 1}", index=number, categories=categories)
        for number in range(4)
    ]


@pytest.mark.parametrize(
    ("structure", "outcomes", "score"),
    [
        ("unknown", (1, 0, 1, 0), 4 / 16),
        ("unknown", (1, 1, 1, 1), 1),
        ("unknown", (1, 1, 1, -1), 4 / 16),  # an unread reply takes one from the right ones
        ("unknown", (-1, -1, 0, 0), 0),
        ("[1, 2, 3, 4]", (1, 1, 0, 1), 4 / 16),  # the chain ends at the first wrong one
        ("[1, 2, 3, 4]", (0, 1, 1, 1), 0),
        ("[1, 2, 3, 4]", (1, -1, 1, 0), 9 / 16),  # an unread reply does not end it
        ("[1, [2, 3], 4]", (1, 0, 1, 1), 4 / 12),  # two questions in either order
        ("[1, [2, 3], 4]", (1, 0, 0, 1), 1 / 12),
        ("[1, [2, 3], 4]", (0, 1, 1, 1), 0),
        ("[[1, 2], 3, 4]", (0, 1, 1, 1), 1 / 10),
        ("[[1, 2], 3, 4]", (1, 1, 1, 0), 5 / 10),
    ],
)
def test_videomme_v2_scores_groups_as_its_script(structure: str, outcomes: tuple[int, ...], score: float) -> None:
    assert group_score(group(structure), outcomes) == pytest.approx(score)


def test_videomme_v2_metrics_have_the_scores_of_groups() -> None:
    options = tuple("abcdefgh")
    replies = {"001": "AAAB", "002": "AAAA", "003": "AA"}  # the third group is not complete
    structures = {"001": "unknown", "002": "[1, 2, 3, 4]", "003": "unknown"}
    records = [
        replace(asked, text=letter, options=options, gold="A", index=4 * int(video) + asked.index)
        for video, letters in replies.items()
        for asked, letter in zip(group(structures[video], video, video[-1]), letters, strict=False)
    ]
    scored = [grade_record(asked, "robust") for asked in records]
    info = RunInfo(run="r", benchmark="videomme_v2", model="m", items=len(scored), dataset_fingerprint="0" * 64)
    scores = summarize(scored, info)["own_scores"]
    assert scores["groups"] == 2
    assert scores["strict"] == scores["official"]
    assert scores["strict"]["overall"] == pytest.approx((9 / 16 + 1) / 2)
    assert scores["strict"]["relevance"] == scores["strict"]["level_1"] == pytest.approx(9 / 16)
    assert scores["strict"]["logic"] == scores["strict"]["level_2"] == 1
    unread = [replace(asked, text="no idea") for asked in records]
    scores = summarize([grade_record(asked, "robust") for asked in unread], info)["own_scores"]
    assert scores["strict"]["overall"] == 0
    assert scores["official"]["logic"] == 1  # the bug: four unread replies are an unbroken chain


def test_avhbench_metrics_have_precision_recall_and_f1() -> None:
    replies = [("Yes", "A"), ("Yes.", "A"), ("A", "B"), ("No", "A"), ("no idea", "A"), ("(B) No", "B")]
    records = [
        record("avhbench", text, gold=gold, id=str(place), categories={"task": "AV Matching" if place else "Other"})
        for place, (text, gold) in enumerate(replies)
    ]
    info = RunInfo(run="r", benchmark="avhbench", model="m", items=len(records), dataset_fingerprint="0" * 64)
    scores = summarize([grade_record(asked, "robust") for asked in records], info)["own_scores"]
    # Yes was said 3 times, twice rightly, and 4 items are Yes: precision 2/3, recall 2/4, F1 4/7.
    assert scores["all"] == pytest.approx({"precision": 2 / 3, "recall": 1 / 2, "f1": 4 / 7, "yes": 1 / 2})
    assert scores["Other"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0, "yes": 1.0}
    assert list(scores) == ["all", "AV Matching", "Other"]


def test_benchmarks_without_numbers_of_their_own_have_none() -> None:
    info = RunInfo(run="r", benchmark="mmar", model="m", items=1, dataset_fingerprint="0" * 64)
    assert summarize([grade_record(record("mmar", "A"), "robust")], info)["own_scores"] is None
