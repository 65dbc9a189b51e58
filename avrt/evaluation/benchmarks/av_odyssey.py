"""AV-Odyssey: questions about images or a video and one to four audio clips, four options.

Read in lmms-eval's form (``AV_Odyssey_Bench_LMMs_Eval``: rows that name their files) under any of the names below. The
authors' own parquet files hold the media themselves, some 26 GB, and are not read.

Questions name their media as ``[img1]`` or ``[audio2]``. A prompt has one image and one audio stream: several images
stand side by side, several clips follow one another, and the question says so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from avrt.evaluation.benchmarks.annotation_rows import read_rows
from avrt.evaluation.benchmarks.base import (
    Benchmark,
    Entry,
    category,
    entries_of,
    gold_by_letter,
    relative_paths,
)
from avrt.evaluation.benchmarks.item_media import numbered
from avrt.evaluation.records.record import Record
from avrt.sample import Sample
from avrt.text.option_labels import strip_labels

_PLACEHOLDER = re.compile(r"\[(img|audio|video)(\d+)\]")
_NAMES = {"img": "image", "audio": "audio clip", "video": "video"}


def read(path: Path) -> list[Entry]:
    """Read the questions.

    Raises:
        ValueError: also for the authors' own parquet files, which hold the media.
    """
    return entries_of(path, read_rows(path), _convert)


def _convert(row: dict[str, Any], _: int) -> Entry:
    if "audio_path" not in row and "audio_1" in row:
        raise ValueError(
            "this file holds the media themselves; use the rows of AV_Odyssey_Bench_LMMs_Eval, which name their files"
        )
    has_images = "image" in row["data_type"]
    shown, audio = relative_paths(row["image_path" if has_images else "video_path"]), relative_paths(row["audio_path"])
    if not has_images and len(shown) > 1:
        raise ValueError(f"`video_path` must name one file, got {shown}")
    visual = numbered("image", shown) if len(shown) > 1 else {"image" if has_images else "video": shown[0]}
    options = strip_labels([_named(option) for option in row["options"]])
    return Entry(
        sample=Sample(
            id=str(row["question_id"]),
            question=_explanation(len(shown), len(audio)) + _named(row["question"]),
            options=options,
            answer=gold_by_letter(row["answer"], options),
            split="test",
            question_type=category(row.get("subfield")),
            source=audio[0],
        ),
        # Numbered even if there is one: it is the question's audio, whatever the video's own is.
        media=visual | numbered("audio", audio),
        categories={
            "subfield": category(row.get("subfield")),
            "question_type_id": category(row.get("question_type_id")),
            "data_type": category(row.get("data_type")),
        },
    )


def _named(text: str) -> str:
    """The text with ``[audio2]`` written as words."""
    return _PLACEHOLDER.sub(lambda found: f"{_NAMES[found[1]]} {found[2]}", text)


def _explanation(images: int, clips: int) -> str:
    """How several images and clips are shown."""
    parts = []
    if images > 1:
        parts.append(f"Images 1 to {images} stand side by side, from left to right.")
    if clips > 1:
        parts.append(f"Audio clips 1 to {clips} follow one another, with a second of silence between them.")
    return "\n".join([*parts, ""])


def official(record: Record) -> bool | None:
    """The letter that a parser after MMMU's reads; A where it reads none. Items without a reply are wrong."""
    return record.failure is None and official_letter(record.text, record.options) == record.gold


def official_letter(reply: str, options: Sequence[str]) -> str:
    """The letter that AV-Odyssey's parser reads from a reply; unlike MMMU's it does not require brackets.

    Any capital A to D counts, also inside a word ("Dog" is D). Of several, the one whose ``(A)`` stands last counts, or
    the first in the alphabet if none has brackets. In a reply of more than five words without such letters the options'
    texts are looked for, the last one in the reply counts, and a reply with none of them is A.
    """
    for mark in ",.!?;:'":
        reply = reply.strip(mark)
    if found := [letter for letter in "ABCD" if letter in reply]:
        return max(found, key=lambda letter: reply.rfind(f"({letter})"))
    lower, places = f" {reply.lower()} ", {}
    if len(reply.split()) > 5:
        texts = dict(zip("ABCD", (option.lower() for option in options), strict=False))
        places = {letter: lower.rfind(text) for letter, text in texts.items() if text in lower}
    return max(places, key=lambda letter: places[letter]) if places else "A"


BENCHMARK = Benchmark(
    name="av_odyssey",
    title="AV-Odyssey",
    items=4_555,
    group="audio_visual",
    in_average=False,
    folders=("av_odyssey", "AV-Odyssey", "AV_Odyssey_Bench_LMMs_Eval", "AV_Odyssey"),
    annotation_files=("data/test-00000-of-00001.parquet", "av_odyssey.parquet", "av_odyssey.jsonl"),
    read=read,
    official=official,
    official_source="AV-Odyssey evaluation.py: MMMU's parser without brackets; a reply that it cannot read is A",
)
