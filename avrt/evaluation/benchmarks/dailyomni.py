"""DailyOmni: ``qa.json`` and ``Videos/<id>/<id>_video.mp4`` (with audio; ``<id>_audio.wav`` if it has none)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from avrt.evaluation.benchmarks import official_rules
from avrt.evaluation.benchmarks.base import (
    Benchmark,
    Entry,
    category,
    entries_of,
    gold_by_letter,
    relative_path,
)
from avrt.files.json_rows import read_json_rows
from avrt.sample import Sample
from avrt.text.option_labels import strip_labels


def read(path: Path) -> list[Entry]:
    """Read ``qa.json``. Questions have no id of their own; it is composed of the video's id and their number within
    it."""
    counts: Counter[str] = Counter()

    def convert(row: dict[str, Any], _: int) -> Entry:
        video = str(row["video_id"])
        options = strip_labels(row["Choice"])
        number = counts[video]
        counts[video] += 1
        folder = relative_path(f"Videos/{video}")
        return Entry(
            sample=Sample(
                id=f"{video}-{number}",
                question=row["Question"],
                options=options,
                answer=gold_by_letter(row["Answer"], options),
                split="test",
                question_type=category(row.get("Type")),
                source=video,
            ),
            media={"video": f"{folder}/{video}_video.mp4"},
            optional_media={"audio": f"{folder}/{video}_audio.wav"},
            categories={name: category(row.get(name)) for name in ("Type", "video_duration", "video_category")},
        )

    return entries_of(path, read_json_rows(path), convert)


BENCHMARK = Benchmark(
    name="dailyomni",
    title="DailyOmni",
    items=1_197,
    group="audio_visual",
    folders=("dailyomni", "DailyOmni", "Daily-Omni"),
    annotation_files=("qa.json",),
    read=read,
    official=official_rules.dailyomni,
    official_source="Daily-Omni test_model/Qwen2.5-Omni/testmodel.py: the letter at the reply's start",
)
