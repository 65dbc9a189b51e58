"""AVQA's validation split: ``val_qa.json`` and ``videos/<video_name>.mp4``.

AVQA's authors publish the accuracy of classifiers over four options, overall and by question type, but no script that
reads replies: the strict score is used.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from avrt.data.annotations import ReadOptions, read_annotations
from avrt.evaluation.benchmarks.base import Benchmark, Entry
from avrt.media.clip_files import has_extension


def read(path: Path) -> list[Entry]:
    """Read the annotations with `avrt.data.annotations`, which training uses too."""
    return [
        Entry(
            sample=sample,
            media={"video": f"videos/{sample.source}{'' if has_extension(sample.source) else '.mp4'}"},
            categories={
                "question_type": sample.question_type or "unknown",
                "question_relation": sample.modality or "unknown",
            },
        )
        for sample in read_annotations(path, ReadOptions(split="val")).samples
    ]


def question_set(name: str, items: int, *, title: str = "", annotation_file: str = "val_qa.json") -> Benchmark:
    """Any question set in AVQA's format (the demo's, your own): clips in ``videos/``, strict score only."""
    return Benchmark(
        name=name,
        title=title or name,
        items=items,
        group="audio_visual",
        in_average=False,
        folders=(name,),
        annotation_files=(annotation_file,),
        read=read,
        official=None,
        official_source="ours",
    )


BENCHMARK = replace(
    question_set("avqa", 17_208, title="AVQA"),
    folders=("avqa", "AVQA"),
    official_source="ours: the authors publish no rule for free text",
)
