"""MMAR: ``MMAR-meta.jsonl`` (or ``.json``) and the wav files that it names under ``audio/``."""

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
    """Read the annotations. In four rows the last option is blank; it stays an option, as its authors count it."""
    return entries_of(path, read_json_rows(path), _convert)


def _convert(row: dict[str, Any], _: int) -> Entry:
    options = option_texts(row["choices"])
    audio = relative_path(row["audio_path"])
    return Entry(
        sample=Sample(
            id=str(row["id"]),
            question=row["question"],
            options=options,
            answer=gold_by_text(row["answer"], options),
            split="test",
            question_type=category(row["category"]),
            modality=category(row["modality"]),
            source=audio,
        ),
        media={"audio": audio},
        categories={name: category(row[name]) for name in ("modality", "category", "sub-category")},
        official_gold=str(row["answer"]),
    )


BENCHMARK = Benchmark(
    name="mmar",
    title="MMAR",
    items=1_000,
    group="audio",
    folders=("mmar", "MMAR"),
    annotation_files=("MMAR-meta.jsonl", "MMAR-meta.json", "mmar_meta.jsonl"),
    read=read,
    official=official_rules.word_set_match,
    compares_texts=True,
    official_source="MMAR code/evaluation.py: word-set match on the option's text",
)
