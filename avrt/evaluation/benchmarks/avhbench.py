"""AVHBench, its yes/no questions: ``QA.json`` and ``videos/<video_id>.mp4``.

The file also has captions to be written, which are not read. The authors publish accuracy, precision, recall, F1 and
the share of "Yes" for each task, but no script that reads replies: the strict score is used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from avrt.evaluation.benchmarks.base import (
    Benchmark,
    Entry,
    category,
    entries_of,
    gold_by_text,
    relative_path,
)
from avrt.evaluation.records.record import Record
from avrt.files.json_rows import read_json_rows
from avrt.sample import LETTERS, Sample

OPTIONS = ("Yes", "No")
CAPTIONING = "AV Captioning"


def read(path: Path) -> list[Entry]:
    """Read the yes/no questions. They have no id; it is composed of the video's id and their number within it, without
    captions."""
    counts: Counter[str] = Counter()

    def convert(row: dict[str, Any], _: int) -> Entry:
        video = str(row["video_id"])
        number = counts[video]
        counts[video] += 1
        return Entry(
            sample=Sample(
                id=f"{video}-{number}",
                question=row["text"],
                options=OPTIONS,
                answer=gold_by_text(str(row["label"]).strip().capitalize(), OPTIONS),
                split="test",
                question_type=category(row["task"]),
                source=video,
            ),
            media={"video": relative_path(f"videos/{video}.mp4")},
            categories={"task": category(row["task"])},
        )

    return entries_of(path, [row for row in read_json_rows(path) if row.get("task") != CAPTIONING], convert)


def own_scores(records: Sequence[Record]) -> dict[str, Any]:
    """Precision, recall and F1 of "Yes", and the share of replies that are "Yes", over all questions and by task.

    An unread reply is neither Yes nor No: it lowers the recall and not the precision. Shares of nothing are None.
    """
    tasks = sorted({record.categories["task"] for record in records if "task" in record.categories})
    parts = {task: [record for record in records if record.categories.get("task") == task] for task in tasks}
    return {"all": _yes_scores(records), **{task: _yes_scores(part) for task, part in parts.items()}}


def _yes_scores(records: Sequence[Record]) -> dict[str, float | None]:
    said = [record.answer is not None and record.options[LETTERS.index(record.answer)] == "Yes" for record in records]
    true = [record.options[LETTERS.index(record.gold)] == "Yes" for record in records]
    both = sum(yes and gold for yes, gold in zip(said, true, strict=True))
    return {
        "precision": _share(both, sum(said)),
        "recall": _share(both, sum(true)),
        "f1": _share(2 * both, sum(said) + sum(true)),
        "yes": _share(sum(said), len(records)),
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


BENCHMARK = Benchmark(
    name="avhbench",
    title="AVHBench",
    items=5_302,
    group="audio_visual",
    in_average=False,
    folders=("avhbench", "AVHBench"),
    annotation_files=("QA.json",),
    read=read,
    official=None,
    official_source="ours: the authors publish no rule for free text",
    own_scores=own_scores,
)
