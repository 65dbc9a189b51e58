"""Video-MME-v2: ``test.parquet`` (or its rows as JSON) and ``videos/<video_id>.mp4``.

Each video has four questions of eight options, which are scored as a group.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from avrt.evaluation.benchmarks.annotation_rows import read_rows
from avrt.evaluation.benchmarks.base import (
    Benchmark,
    Entry,
    category,
    entries_of,
    gold_by_letter,
    relative_path,
)
from avrt.evaluation.benchmarks.letter_rules import first_letter
from avrt.evaluation.records.record import Record
from avrt.sample import Sample
from avrt.text.option_labels import strip_labels

PREFIXES = (
    "Final Answer:",
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option is",
    "The correct option is",
    "Best answer:",
    "Best option:",
    "Answer:",
    "Option:",
)
"""Phrases that the authors' script removes before it looks for a letter."""

CATEGORIES = ("level", "group_type", "group_structure", "second_head", "third_head")

# A question that breaks the chain ends the group's score; two questions listed together may be answered in
# either order. By structure: the score after n links of the chain, as shares.
_SQUARES = (0, 1 / 16, 4 / 16, 9 / 16, 1)
_CHAINS = {
    "[1, 2, 3, 4]": (_SQUARES, None),
    "[1, [2, 3], 4]": ((0, 1 / 12, 4 / 12, 7 / 12, 1), 1),
    "[[1, 2], 3, 4]": ((0, 1 / 10, 2 / 10, 5 / 10, 1), 0),
}
GROUP = 4


def read(path: Path) -> list[Entry]:
    """Read the questions; the options are one text with a line each."""
    return entries_of(path, read_rows(path), _convert)


def _convert(row: dict[str, Any], _: int) -> Entry:
    labelled = row["options"]
    options = strip_labels(_lines(labelled) if isinstance(labelled, str) else labelled)
    video = str(row["video_id"])
    categories = {name: category(row.get(name)) for name in CATEGORIES}
    if categories["group_type"] not in ("relevance", "logic"):
        raise ValueError(f"`group_type` must be relevance or logic, got {row.get('group_type')!r}")
    if categories["group_type"] == "logic":
        categories["group_structure"] = _structure(categories["group_structure"])
    return Entry(
        sample=Sample(
            id=str(row["question_id"]),
            question=row["question"],
            options=options,
            answer=gold_by_letter(row["answer"], options),
            split="test",
            question_type=categories["third_head"],
            source=video,
        ),
        media={"video": relative_path(f"videos/{video}.mp4")},
        categories=categories,
    )


def _lines(text: str) -> list[str]:
    """The options of one text; a line that does not begin with the next letter continues the option before it."""
    options: list[str] = []
    for line in text.strip().splitlines():
        if options and not line.lstrip().startswith(f"{chr(ord('A') + len(options))}."):
            options[-1] += f" {line.strip()}"
        else:
            options.append(line)
    return options


def _structure(text: str) -> str:
    """A chain's structure in one spelling."""
    try:
        spelled = json.dumps(json.loads(text))
    except ValueError as error:
        raise ValueError(f"`group_structure` must be one of {', '.join(_CHAINS)}, got {text!r}") from error
    if spelled not in _CHAINS:
        raise ValueError(f"`group_structure` must be one of {', '.join(_CHAINS)}, got {text!r}")
    return spelled


def official(record: Record) -> bool | None:
    """The first capital A to H once some phrases are removed; replies without one, and items without a reply, leave the
    denominator. "A man sings, so B" is A, and "Here" is H."""
    letter = first_letter(record.text.strip(), PREFIXES, "ABCDEFGH")
    return None if record.failure is not None or letter is None else letter == record.gold


def own_scores(records: Sequence[Record]) -> dict[str, Any]:
    """The authors' scores of groups, as shares: over all groups, and by the kind and the level of a group.

    A group's level is that of its last question. Groups that are not complete are left out; ``groups`` is the number of
    the others. ``strict`` uses the strict outcomes, an unread reply being wrong. ``official`` uses the outcomes of the
    official rule as the authors' script does, bugs included: an unread reply there takes 1 from the number of right
    ones, and in a chain it counts as right.
    """
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.id.rpartition("-")[0], []).append(record)
    complete = [sorted(group, key=lambda record: record.index) for group in groups.values() if len(group) == GROUP]
    scores = {
        "strict": [group_score(group, [int(bool(record.correct_strict)) for record in group]) for group in complete],
        "official": [group_score(group, [_outcome(record.correct_official) for record in group]) for group in complete],
    }
    return {"groups": len(complete), **{name: _averages(complete, values) for name, values in scores.items()}}


def _outcome(right: bool | None) -> int:
    return -1 if right is None else int(right)


def group_score(group: Sequence[Record], outcomes: Sequence[int]) -> float:
    """The score of one group of four questions, in [0, 1].

    Args:
        outcomes: 1 right, 0 wrong, -1 unread, in the questions' order.
    """
    if group[0].categories["group_type"] == "relevance":
        right = sum(outcomes)
        return _SQUARES[right] if right > 0 else 0.0
    scores, pair = _CHAINS[group[-1].categories["group_structure"]]
    links = next((place for place, outcome in enumerate(outcomes) if not outcome), GROUP)
    if links == pair and outcomes[pair + 1]:
        links += 1
    return scores[links]


def _averages(groups: Sequence[list[Record]], scores: Sequence[float]) -> dict[str, float | None]:
    """The mean score of all groups, and of those of a kind or level."""
    parts: dict[str, list[float]] = {"overall": [], "relevance": [], "logic": []}
    for group, score in zip(groups, scores, strict=True):
        level = group[-1].categories["level"]
        names = ["overall", group[0].categories["group_type"]]
        for name in names if level in ("unknown", "None") else [*names, f"level_{level}"]:
            parts.setdefault(name, []).append(score)
    return {name: sum(values) / len(values) if values else None for name, values in parts.items()}


BENCHMARK = Benchmark(
    name="videomme_v2",
    title="Video-MME-v2",
    items=3_200,
    group="audio_visual",
    in_average=False,
    folders=("videomme_v2", "Video-MME-v2"),
    annotation_files=("test.parquet", "test.jsonl", "data/test-00000-of-00001.parquet"),
    read=read,
    official=official,
    official_source="Video-MME-v2 evaluation/test_video_mme_v2.py: the first A to H anywhere",
    own_scores=own_scores,
)
