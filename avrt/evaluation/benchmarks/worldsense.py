"""WorldSense: ``worldsense_qa.json`` and ``videos/<video>.mp4``.

The authors' file is one object: video to its description and its questions, under ``task0``, ``task1`` and so on. Rows
of one question each (lmms-eval's parquet file, or JSON) are read too.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
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
from avrt.files.json_text import decode_json
from avrt.sample import Sample
from avrt.text.option_labels import strip_labels

PREFIXES = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    # These two were meant to be four phrases: the script lacks commas, so they never match.
    "The best option isThe correct option is",
    "Best answer:Best option:",
    "Answer:",
    "Option:",
)
"""Phrases that VLMEvalKit removes before it looks for a letter."""

CATEGORIES = ("task_domain", "task_type", "domain", "sub_category", "duration", "audio_class")


def read(path: Path) -> list[Entry]:
    """Read the questions. Their id is the video's and their number within it: the numbers of lmms-eval's rows depend on
    the file."""
    counts: Counter[str] = Counter()

    def convert(row: dict[str, Any], _: int) -> Entry:
        video = str(row["video"])
        options = strip_labels(row["candidates"])
        number = counts[video]
        counts[video] += 1
        return Entry(
            sample=Sample(
                id=f"{video}-{number}",
                question=row["question"],
                options=options,
                answer=gold_by_letter(row["answer"], options),
                split="test",
                question_type=category(row.get("task_type")),
                source=video,
            ),
            media={"video": relative_path(f"videos/{video}.mp4")},
            categories={name: category(row.get(name)) for name in CATEGORIES},
        )

    return entries_of(path, _rows(path), convert)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """One row per question."""
    if path.suffix == ".json":
        try:
            content = decode_json(path.read_text(encoding="utf-8-sig"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: is not valid JSON at line {error.lineno}: {error.msg}") from error
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        if isinstance(content, dict):
            for video, fields in content.items():
                if not isinstance(fields, dict):
                    raise ValueError(f"{path}: the entry of video {video!r} is not a JSON object")
                shared = {name: value for name, value in fields.items() if not isinstance(value, dict)}
                for name, question in fields.items():
                    if "task" in name and isinstance(question, dict):
                        yield {**shared, **question, "video": video}
            return
    yield from read_rows(path)


def official(record: Record) -> bool | None:
    """The rule of VLMEvalKit, which the authors use: the first capital A to D. Without one, the item is wrong.

    "A man sings, so B" is A. Questions without a reply count as wrong.
    """
    return record.failure is None and first_letter(record.text, PREFIXES, "ABCD") == record.gold


BENCHMARK = Benchmark(
    name="worldsense",
    title="WorldSense",
    items=3_172,
    group="audio_visual",
    in_average=False,
    folders=("worldsense", "WorldSense"),
    annotation_files=("worldsense_qa.json", "worldsense.jsonl", "data/test-00000-of-00001.parquet"),
    read=read,
    official=official,
    official_source="VLMEvalKit vlmeval/dataset/worldsense.py, exact matching: the first A to D anywhere",
)
