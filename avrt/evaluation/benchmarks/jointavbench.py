"""JointAVBench: ``jointavbench.json`` and ``videos/<qid>.mp4``, one clip per question.

The authors publish links to the videos and the stretch of each question (``segment_timestamp``, in seconds), and their
scripts read a file per question that holds this stretch. An audio file beside it (``<qid>.m4a``) is used if the video
has no audio.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from avrt.evaluation.benchmarks.base import (
    Benchmark,
    Entry,
    category,
    entries_of,
    gold_by_text,
    option_texts,
    relative_path,
)
from avrt.evaluation.records.record import Record
from avrt.files.json_rows import read_json_rows
from avrt.sample import Sample

SCENES = {"single": range(1, 9), "multi": range(9, 14), "full": range(15, 18)}
ABILITIES = {
    "temporal": (1, 8, 10, 11),
    "spatial": (2, 4, 5),
    "long": (9, 15),
    "emotional": (6, 7, 16),
    "plot": (12, 13, 17),
}
"""The authors' groups of tasks, by the task's number in the question's id."""

_TASK = re.compile(r"_task(\d+)_")
_CHOICE = (
    # A letter in quotes or brackets, or before a space, is matched with these and then is no letter of an option.
    re.compile(r"answer(?: is)?\s*[:=-]?\s*([\"'(]?\s*[A-D]\s*[\"')]?)", re.IGNORECASE),
    re.compile(r"([A-D])(?:\s*is the|\)?\s*is)\s*(?:correct|right|answer)", re.IGNORECASE),
    re.compile(r"option\s*([A-D])\b", re.IGNORECASE),
    re.compile(r"select(?:ed)?\s*([A-D])\b", re.IGNORECASE),
    re.compile(r"[\"'(]\s*([A-D])\s*[\"')]\s*(?:is|as)\s*(?:the )?(?:answer|correct)", re.IGNORECASE),
)
_LABEL = re.compile(r"\b([A-D])\b(?=\.\s)")


def read(path: Path) -> list[Entry]:
    """Read the questions; the gold answer is an option's text."""
    return entries_of(path, read_json_rows(path), _convert)


def _convert(row: dict[str, Any], _: int) -> Entry:
    options = option_texts(row["options"])
    name = str(row["qid"])
    clip = relative_path(f"videos/{name}.mp4")
    found = _TASK.search(name)
    number = int(found[1]) if found else 0
    groups: dict[str, dict[str, Any]] = {"scene": SCENES, "ability": ABILITIES}
    return Entry(
        sample=Sample(
            id=name,
            question=row["question"],
            options=options,
            answer=gold_by_text(row["correct_answer"], options),
            split="test",
            question_type=category(row.get("task")),
            source=str(row["video_name"]),
        ),
        media={"video": clip},
        optional_media={"audio": str(Path(clip).with_suffix(".m4a"))},
        categories={
            "task": category(row.get("task")),
            **{
                key: next((value for value, tasks in group.items() if number in tasks), "unknown")
                for key, group in groups.items()
            },
        },
    )


def official(record: Record) -> bool | None:
    """The one option that a set of patterns finds; replies in which they find none or several leave the denominator.

    The patterns are case-blind, so "the answer could be A." finds C (of "could") and A, and is left out; "Answer: (B)"
    finds nothing.
    """
    if record.failure is not None:
        return None
    letter = official_letter(record.text, record.options)
    return None if letter is None else letter == record.gold


def official_letter(reply: str, options: tuple[str, ...]) -> str | None:
    """The letter that the authors' script reads, or None."""
    text = " ".join(reply.split())
    found = {match[1].upper() for pattern in _CHOICE for match in pattern.finditer(text)} & set("ABCD")
    found |= set(_LABEL.findall(text))
    found |= {
        letter for letter, option in zip("ABCD", options, strict=False) if option in text or option.lower() in text
    }
    if " " not in text:
        found |= set("ABCD") & set(text.upper())
    return found.pop() if len(found) == 1 else None


BENCHMARK = Benchmark(
    name="jointavbench",
    title="JointAVBench",
    items=2_853,
    group="audio_visual",
    in_average=False,
    folders=("jointavbench", "JointAVBench"),
    annotation_files=("jointavbench.json",),
    read=read,
    official=official,
    official_source="JointAVBench evaluation/evaluation.py: one option found by patterns and texts",
)
