"""MMAU-Pro's multiple-choice questions: ``test.parquet`` (or its rows as JSON) and the files it names in ``data/``.

Open and instruction-following questions need judges of their own and are not read. The authors match a reply with the
options by the similarity of embeddings of NV-Embed-v2, a model of 7 billion parameters: the strict score is used.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

from avrt.evaluation.benchmarks.annotation_rows import read_rows
from avrt.evaluation.benchmarks.base import (
    Benchmark,
    Entry,
    category,
    entries_of,
    option_texts,
    relative_paths,
)
from avrt.sample import Sample

OTHER_FORMS = ("open", "instruction following")
"""Values of `category` whose questions have no options to choose from."""

_NOT_WORD = re.compile(r"[\W_]+")


def read(path: Path) -> list[Entry]:
    """Read the questions that have two options or more, as the authors' script counts them.

    A few of them have a gold answer that is none of their options. No reply can answer these; they are left out, with a
    warning that says how many.
    """
    rows = [row for row in read_rows(path) if _is_multiple_choice(row)]
    known = [row for row in rows if _gold(row) is not None]
    if len(known) < len(rows):
        some = ", ".join(str(row.get("id")) for row in rows if _gold(row) is None)[:200]
        warnings.warn(
            f"{path}: the gold answer of {len(rows) - len(known)} of {len(rows)} questions is none of their options; "
            f"they are left out ({some})",
            stacklevel=2,
        )
    return entries_of(path, known, _convert)


def _is_multiple_choice(row: dict[str, Any]) -> bool:
    choices = row.get("choices")
    return category(row.get("category")) not in OTHER_FORMS and isinstance(choices, list) and len(choices) > 1


def _gold(row: dict[str, Any]) -> int | None:
    """The option with the gold text; spelling of case, spaces and punctuation may differ."""
    for same in (lambda text: text, lambda text: _NOT_WORD.sub(" ", text.lower()).strip()):
        wanted = same(str(row.get("answer")))
        for index, option in enumerate(option_texts(row["choices"])):
            if wanted and same(option) == wanted:
                return index
    return None


def _convert(row: dict[str, Any], _: int) -> Entry:
    audio = relative_paths(row["audio_path"])
    gold = _gold(row)
    assert gold is not None
    return Entry(
        sample=Sample(
            id=str(row["id"]),
            question=row["question"],
            options=option_texts(row["choices"]),
            answer=gold,
            split="test",
            question_type=category(row.get("category")),
            source=audio[0],
        ),
        media={"audio": audio[0] if len(audio) == 1 else tuple(audio)},
        categories={
            "category": category(row.get("category")),
            "length_type": category(row.get("length_type")),
            "audio clips": str(len(audio)),
        },
    )


BENCHMARK = Benchmark(
    name="mmau_pro",
    title="MMAU-Pro",
    items=0,
    group="audio",
    in_average=False,
    folders=("mmau_pro", "MMAU-Pro"),
    annotation_files=("test.parquet", "test.jsonl", "data/test-00000-of-00001.parquet"),
    read=read,
    official=None,
    official_source="ours: the authors compare embeddings of NV-Embed-v2 (evaluate_mmau_pro_comprehensive.py)",
)
