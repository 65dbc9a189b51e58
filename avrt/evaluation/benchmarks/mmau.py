"""MMAU test-mini, version 05.15.25: ``mmau-test-mini.json`` and ``test-mini-audios/<id>.wav``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from avrt.evaluation.benchmarks import official_rules
from avrt.evaluation.benchmarks.base import (
    Benchmark,
    Entry,
    category,
    entries_of,
    gold_by_text,
    option_texts,
    relative_path,
)
from avrt.files.json_rows import read_json_rows
from avrt.sample import Sample


def read(path: Path) -> list[Entry]:
    """Read the annotations. In 27 rows two options have the same text: the first is gold, and either is right."""
    return entries_of(path, read_json_rows(path), _convert)


def _convert(row: dict[str, Any], _: int) -> Entry:
    options = option_texts(row["choices"])
    audio = relative_path(row["audio_id"])
    return Entry(
        sample=Sample(
            id=str(row["id"]),
            question=row["question"],
            options=options,
            answer=gold_by_text(row["answer"], options),
            split="test",
            question_type=category(row["sub-category"]),
            modality=category(row["task"]),
            source=audio,
        ),
        media={"audio": audio},
        categories={name: category(row[name]) for name in ("task", "difficulty", "category", "sub-category")},
        official_gold=str(row["answer"]),
    )


BENCHMARK = Benchmark(
    name="mmau",
    title="MMAU",
    items=1_000,
    group="audio",
    folders=("mmau", "MMAU"),
    annotation_files=("mmau-test-mini.json", "mmau_test_mini.json"),
    read=read,
    official=official_rules.word_set_match,
    compares_texts=True,
    official_source="MMAU evaluation.py: word-set match on the option's text",
)
