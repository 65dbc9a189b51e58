"""Video-MME: ``videomme/test-00000-of-00001.parquet`` (or its rows as JSON) and ``data/<videoID>.mp4``.

The authors' result template (``output_test_template.json``: videos with a list of questions each) is read too, with its
present keys and with those before June 2024; it names videos only by number, which is then the media's name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from avrt.evaluation.benchmarks import official_rules
from avrt.evaluation.benchmarks.annotation_rows import read_rows
from avrt.evaluation.benchmarks.base import (
    Benchmark,
    Entry,
    category,
    entries_of,
    gold_by_letter,
    relative_path,
)
from avrt.sample import Sample
from avrt.text.option_labels import strip_labels

_OLDER_KEYS = {
    "duration_category": "duration",
    "video_category": "domain",
    "video_subcategory": "sub_category",
    "choices": "options",
}
"""Keys of the result template before 18 June 2024."""


def read(path: Path) -> list[Entry]:
    """Read the parquet file, its rows as JSON or JSON lines, or the result template."""
    # The authors' own template has commas before closing brackets.
    return entries_of(path, questions_of(path, read_rows(path, trailing_commas=True)), _convert)


def _convert(row: dict[str, Any], _: int) -> Entry:
    options = strip_labels(row["options"])
    video = str(row.get("videoID") or row["video_id"])
    names = ("duration", "domain", "sub_category", "task_type")
    return Entry(
        sample=Sample(
            id=str(row["question_id"]),
            question=row["question"],
            options=options,
            answer=gold_by_letter(row["answer"], options),
            split="test",
            question_type=category(row.get("task_type")),
            source=video,
        ),
        media={"video": relative_path(f"data/{video}.mp4")},
        categories={name: category(row.get(name)) for name in names},
    )


def questions_of(path: Path, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """One row per question; the result template nests the questions, under keys that its older form names otherwise.

    Raises:
        ValueError: `questions` is not a list of objects; names file and entry.
    """
    for number, row in enumerate(rows, start=1):
        if "questions" not in row:
            yield row
            continue
        if not isinstance(row["questions"], list) or not all(isinstance(entry, dict) for entry in row["questions"]):
            raise ValueError(f"{path}: entry {number}: `questions` must be a list of objects")
        video = {_OLDER_KEYS.get(key, key): value for key, value in row.items() if key != "questions"}
        for question in row["questions"]:
            yield video | {_OLDER_KEYS.get(key, key): value for key, value in question.items()}


_STEM = "test-00000-of-00001"

BENCHMARK = Benchmark(
    name="videomme",
    title="Video-MME",
    items=2_700,
    group="audio_visual",
    folders=("videomme", "Video-MME", "VideoMME"),
    annotation_files=(
        f"videomme/{_STEM}.parquet",
        f"videomme/{_STEM}.jsonl",
        f"{_STEM}.parquet",
        f"{_STEM}.jsonl",
        "output_test_template.json",
    ),
    read=read,
    official=official_rules.video_mme,
    official_source="thanku-all/parse_answer eval_your_results.py, linked by Video-MME: the first A to D anywhere",
    older_rules={
        "videomme-2024-06-03": (
            official_rules.video_mme_2024_06_03,
            'Video-MME evaluation/eval_your_results.py of 3 June 2024: the first A to D anywhere, in "Answer:" too',
        )
    },
)
