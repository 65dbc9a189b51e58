"""AV-Odyssey: questions about images or a video and one to four audio clips, four options.

Read in lmms-eval's form (``AV_Odyssey_Bench_LMMs_Eval``: rows that name their files) under any of the names below. The
authors' own parquet files hold the media themselves, some 26 GB, and are not read.

Questions and options name their media as ``[img1]`` or ``[audio2]``. The media are shown at these places, as in the
authors' own code: `avrt.text.prompts.arrange` reads ``<image1>`` and ``<audio2>``.
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
from avrt.evaluation.records.record import Record
from avrt.sample import Sample
from avrt.text.option_labels import strip_labels

_PLACEHOLDER = re.compile(r"\[(img|audio|video)(\d+)\]")


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
    question, *labeled = _with_places([row["question"], *row["options"]])
    options = strip_labels(labeled)
    visual = shown[0] if len(shown) == 1 else tuple(shown)
    return Entry(
        sample=Sample(
            id=str(row["question_id"]),
            question=question,
            options=options,
            answer=gold_by_letter(row["answer"], options),
            split="test",
            question_type=category(row.get("subfield")),
            source=audio[0],
        ),
        # A tuple even of one: it is the question's audio, whatever the video's own is.
        media={"image" if has_images else "video": visual, "audio": tuple(audio)},
        categories={
            "subfield": category(row.get("subfield")),
            "question_type_id": category(row.get("question_type_id")),
            "data_type": category(row.get("data_type")),
        },
    )


def _with_places(texts: Sequence[str]) -> list[str]:
    """The texts with ``<audio2>`` where a file is first named, its place in the prompt, and later with "audio 2"."""
    seen: set[str] = set()

    def place(found: re.Match[str]) -> str:
        kind = "image" if found[1] == "img" else found[1]
        first = found[0] not in seen
        seen.add(found[0])
        return f"<{kind}{found[2]}>" if first else f"{kind} {found[2]}"

    return [_PLACEHOLDER.sub(place, text) for text in texts]


def official(record: Record) -> bool | None:
    """The letter that a parser after MMMU's reads; A where it reads none. Items without a reply are wrong."""
    return record.failure is None and official_letter(record.text, record.options) == record.gold


def official_letter(reply: str, options: Sequence[str]) -> str:
    """The letter that AV-Odyssey's parser reads from a reply; unlike MMMU's it does not require brackets.

    Any capital A to D counts, also inside a word ("Dog" is D). Of several, the one whose ``(A)`` comes last counts, or
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
