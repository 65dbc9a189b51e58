"""OmniVideoBench: ``data.json`` and ``videos/<video>.mp4``, with one to several questions per video."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from avrt.evaluation.benchmarks.base import (
    Benchmark,
    Entry,
    category,
    entries_of,
    gold_by_letter,
    relative_path,
)
from avrt.evaluation.records.record import Record
from avrt.files.json_rows import read_json_rows
from avrt.sample import Sample

_LABEL = re.compile(r"\s*[A-Z](?:[.:]\s*|\s+)(\S.*)", re.DOTALL)
_THINKING = re.compile(r"<think>.*?</think>", re.DOTALL)
_BOXES = (re.compile(r"/box\{([^}]+)\}"), re.compile(r"\\boxed\{([^}]+)\}"))
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def read(path: Path) -> list[Entry]:
    """Read ``data.json``. Questions have no id; it is composed of the video's name and their number within it."""
    return entries_of(path, _questions(read_json_rows(path)), _convert)


def _questions(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for row in rows:
        for number, question in enumerate(row["questions"]):
            yield {**question, "number": number, "video": row["video"], "video_type": row.get("video_type")}


def _convert(row: dict[str, Any], _: int) -> Entry:
    options = _texts(row["options"])
    video = str(row["video"])
    return Entry(
        sample=Sample(
            id=f"{video}-{row['number']}",
            question=row["question"],
            options=options,
            answer=gold_by_letter(row["correct_option"], options),
            split="test",
            question_type=category(row.get("question_type")),
            source=video,
        ),
        media={"video": relative_path(f"videos/{video}.mp4")},
        categories={name: category(row.get(name)) for name in ("question_type", "audio_type", "video_type")},
    )


def _texts(options: Sequence[Any]) -> tuple[str, ...]:
    """The options without their letters, written ``A.x``, ``A: x`` and ``A x``.

    Only the place of an option counts: in three of the authors' questions the letters are A, B, A, B.
    """
    matches = [_LABEL.fullmatch(str(option)) for option in options]
    if not all(matches):
        raise ValueError(f"the options {list(options)} do not all begin with a letter")
    return tuple(match[1].strip() for match in matches if match)


def official(record: Record) -> bool | None:
    """The whole reply, without thinking and punctuation, is the gold letter; or a letter and a dot begin it.

    The authors take the text after the last "assistant" (their reply begins with the prompt), and the content of a
    ``/box{}`` or ``\\boxed{}``. Questions without a reply leave the denominator.
    """
    if record.failure is not None:
        return None
    text = _THINKING.sub("", record.text).strip() or record.text
    text = text.split("assistant")[-1].strip()
    for box in _BOXES:
        if found := box.search(text):
            text = found[1].strip()
    return _letter(text) == record.gold.lower()


def _letter(text: str) -> str:
    """The text as the authors compare it: lower case, no punctuation; of "b. dog" only the letter."""
    text = text.lower()
    if found := _BOXES[0].search(text):
        text = found[1]
    if text[1:2] == ".":
        text = text[0]
    return " ".join(text.translate(_NO_PUNCTUATION).split())


BENCHMARK = Benchmark(
    name="omnivideobench",
    title="OmniVideoBench",
    items=1_000,
    group="audio_visual",
    in_average=False,
    folders=("omnivideobench", "OmniVideoBench"),
    annotation_files=("data.json",),
    read=read,
    official=official,
    official_source="OmniVideoBench utils/utils.py: the reply is the letter, or begins with it and a dot",
)
