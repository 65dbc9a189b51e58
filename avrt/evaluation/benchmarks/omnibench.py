"""OmniBench: ``dataset/batch-5_1142_20240817.jsonl``, images in ``mm_data/image``, audio in ``mm_data/audio``."""

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
    """Read the annotations; the gold answer is an option's text, and the option with that text is the gold option."""

    def convert(row: dict[str, Any], _: int) -> Entry:
        options = option_texts(row["options"])
        image, audio = relative_path(row["image_path"]), relative_path(row["audio_path"])
        return Entry(
            sample=Sample(
                id=str(row["index"]),
                question=row["question"],
                options=options,
                answer=gold_by_text(row["answer"], options),
                split="test",
                question_type=category(row["task type"]),
                source=image,
            ),
            media={"image": f"mm_data/image/{image}", "audio": f"mm_data/audio/{audio}"},
            categories={
                "audio type": category(row["audio type"]).strip().lower(),
                "task type": category(row["task type"]).strip(),
            },
            official_gold=str(row["answer"]),
        )

    return entries_of(path, read_json_rows(path), convert)


BENCHMARK = Benchmark(
    name="omnibench",
    title="OmniBench",
    items=1_142,
    group="audio_visual",
    folders=("omnibench", "OmniBench"),
    annotation_files=(
        "dataset/batch-5_1142_20240817.jsonl",
        "batch-5_1142_20240817.jsonl",
        "omnibench.jsonl",
    ),
    read=read,
    official=official_rules.omnibench,
    official_source="OmniBench inference/answer_parsing.py: MMMU's parser, on the gold text too",
)
