"""AVQA's validation split: ``val_qa.json`` and ``videos/<video_name>.mp4``.

AVQA's authors publish the accuracy of classifiers over four options, overall and by question type, and no script that
reads replies: the score is the strict one.
"""

from __future__ import annotations

from pathlib import Path

from avrt.annotations import read_avqa
from avrt.evaluation.benchmarks.base import Benchmark, Entry


def read(path: Path) -> list[Entry]:
    """Read the annotations through `avrt.annotations`, which training uses too."""
    return [
        Entry(
            sample=sample,
            media={"video": f"videos/{sample.source}.mp4"},
            categories={
                "question_type": sample.question_type or "unknown",
                "question_relation": sample.modality or "unknown",
            },
        )
        for sample in read_avqa(path, split="val")
    ]


BENCHMARK = Benchmark(
    name="avqa",
    title="AVQA",
    items=17_208,
    group="audio_visual",
    in_average=False,
    folders=("avqa", "AVQA"),
    annotation_files=("val_qa.json",),
    read=read,
    official=None,
    official_source="ours: the authors publish no rule for free text",
)
