"""AVQA's validation split (``val_qa.json`` and ``videos/<video_name>.mp4``), and question sets of your own.

AVQA's authors publish the accuracy of classifiers over four options, overall and by question type, but no script that
reads replies: the strict score is used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from avrt.data.annotations import AnswerBase, ReadOptions, read_annotations
from avrt.evaluation.benchmarks.base import Benchmark, Entry, category
from avrt.media.clip_files import is_image
from avrt.sample import Sample

MAX_CATEGORY_VALUES = 50
"""Most different values of a key of a question file that is taken for a category without being named."""


@dataclass(frozen=True)
class QuestionFile:
    """How a question file of your own is read.

    Attributes:
        fields, answer_base: see `avrt.data.annotations.ReadOptions`.
        categories: keys whose values are categories; None for every key with few values that repeat.
    """

    fields: str | None = None
    answer_base: AnswerBase | None = None
    categories: Sequence[str] | None = None


def read(path: Path) -> list[Entry]:
    """Read AVQA's annotations."""
    return _entries(path, QuestionFile(categories=()), {"question_type": "unknown", "question_relation": "unknown"})


def read_question_file(path: Path, how: QuestionFile) -> list[Entry]:
    """Read a file in any form of `avrt.data.annotations`, which training uses too.

    Raises:
        ValueError: the file cannot be read, or no row has a key of `categories`.
    """
    return _entries(path, how, {})


def _entries(path: Path, how: QuestionFile, always: dict[str, str]) -> list[Entry]:
    options = ReadOptions(split="val", fields=how.fields, answer_base=how.answer_base)
    samples = read_annotations(path, options).samples
    try:
        extra = extra_categories(samples, how.categories)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    entries = []
    for sample, categories in zip(samples, extra, strict=True):
        own = {"question_type": sample.question_type, "question_relation": sample.modality}
        known = always | {name: value for name, value in own.items() if value}
        entries.append(Entry(sample=sample, media=_media(sample), categories=known | categories))
    return entries


def _media(sample: Sample) -> dict[str, Any]:
    """The files of a sample by kind: `Sample.source` is its video or image, or its audio if there is nothing else."""
    audio = {"audio": sample.audio_source} if sample.audio_source else {}
    if sample.source == sample.audio_source:
        return audio
    return {"image" if is_image(sample.source) else "video": sample.source, **audio}


def extra_categories(samples: Sequence[Sample], names: Sequence[str] | None) -> list[dict[str, str]]:
    """Categories of each sample from its other keys (`Sample.extra`).

    Args:
        names: the keys; None for every key with texts, whole numbers, booleans or lists of texts of which at least one
            repeats, and of which there are at most `MAX_CATEGORY_VALUES`.

    Raises:
        ValueError: no sample has a key of `names`.
    """
    values: dict[str, list[str | None]] = {
        name: [_category(sample.extra.get(name)) for sample in samples]
        for name in dict.fromkeys(name for sample in samples for name in sample.extra)
    }
    if names is None:
        counts = {name: Counter(value for value in found if value is not None) for name, found in values.items()}
        names = [
            name for name, count in counts.items() if len(count) <= MAX_CATEGORY_VALUES and len(count) < count.total()
        ]
    elif unknown := [name for name in names if not any(values.get(name, ()))]:
        found = ", ".join(f"`{name}`" for name in values) or "no other keys"
        raise ValueError(f"categories: no question has a value of {', '.join(unknown)}; found {found}")
    return [
        {name: value for name in names if (value := values[name][place]) is not None} for place in range(len(samples))
    ]


def _category(value: Any) -> str | None:
    plain = value if isinstance(value, list) else [value]
    return category(value) if plain and all(isinstance(part, str | int) and part != "" for part in plain) else None


def question_set(
    name: str, items: int, *, title: str = "", annotation_file: str = "val_qa.json", how: QuestionFile | None = None
) -> Benchmark:
    """A question set of your own, with clips below ``videos/``, ``audios/``, ``images/`` or its folder; strict score
    only."""
    return Benchmark(
        name=name,
        title=title or name,
        items=items,
        in_average=False,
        folders=(name,),
        annotation_files=(annotation_file,),
        read=partial(read_question_file, how=how or QuestionFile()),
        official_source="ours",
        media_folders=("videos", "audios", "images", ""),
    )


BENCHMARK = Benchmark(
    name="avqa",
    title="AVQA",
    items=17_208,
    in_average=False,
    folders=("avqa", "AVQA"),
    annotation_files=("val_qa.json",),
    read=read,
    media_folders=("videos",),
)
