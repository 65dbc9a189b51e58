"""MUSIC-AVQA's questions: templates, whose answers are words of a closed vocabulary, as multiple choice.

A row has ``question_content`` ("Is the <Object> louder than the <Object>?"), ``templ_values`` (a JSON list as text) and
the answer under ``anser``. There are no options. Distractors are drawn from the answers that the file gives to the same
question, then to its question type: a number for "How many ...", an instrument for "What kind of ...", yes and no.
"""

from __future__ import annotations

import functools
import random
import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from avrt.data.annotations.rows import RowError, RowReason
from avrt.files.json_text import decode_json

PLACEHOLDER = re.compile(r"<(?:Object|LRer|LR|LL|FL|TH|BA)>")
"""The templates' gaps: instrument, "leftest", left or right, loudest or lowest, first or last, ordinal, before."""

OPTIONS = 4

_INSTRUMENTS = (
    "accordion acoustic_guitar bagpipe banjo bassoon cello clarinet congas drum electric_bass erhu flute guzheng piano "
    "pipa saxophone suona trumpet tuba ukulele violin xylophone"
)
VOCABULARY = (
    ("yes", "no"),
    ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "more than ten"),
    tuple(_INSTRUMENTS.split()),
    ("left", "middle", "right"),
    ("simultaneously", "left", "middle", "right"),
    ("indoor", "outdoor"),
)
"""The data set's 42 answers, by kind. An answer beyond them is open-ended."""

Pools = dict[tuple[str, object], set[str]]
"""Answers by question type and template, and by question type and kind."""


def question_type(row: dict[str, Any]) -> str:
    """``Audio-Visual/Counting`` for the JSON list in ``type``."""
    kind = row.get("type")
    if isinstance(kind, str):
        return _parsed_type(kind)
    return "/".join(str(part) for part in kind) if isinstance(kind, list) else str(kind or "")


@functools.cache
def _parsed_type(kind: str) -> str:
    try:
        parts = decode_json(kind)
    except ValueError:
        return kind
    return "/".join(str(part) for part in parts) if isinstance(parts, list) else kind


def answers_by_question(rows: Iterable[dict[str, Any]]) -> Pools:
    """The closed-vocabulary answers that a file gives."""
    pools: Pools = defaultdict(set)
    for row in rows:
        answer = _answer(row)
        if answer is not None and (kind := _kind(answer)):
            for key in (row.get("question_content"), kind):
                pools[question_type(row), key].add(answer)
    return pools


def convert(row: dict[str, Any], pools: Pools, seed: int = 0) -> dict[str, Any]:
    """A row as question, options and answer.

    Args:
        pools: see `answers_by_question`; where it knows no other answer, the data set's vocabulary is used.
        seed: seed of the distractors and their order; together with the row's ``question_id`` it determines them.

    Raises:
        RowError: ``open_ended`` for an answer outside the vocabulary, ``deleted`` for a row that its authors deleted,
            or a template that its values do not fit.
    """
    if row.get("question_deleted"):
        raise RowError(RowReason.DELETED, "the row is marked as deleted by its authors")
    answer = _answer(row)
    if answer is None:
        raise RowError(RowReason.BAD_ANSWER, f"`anser` must be a text, got {row.get('anser', row.get('answer'))!r}")
    kind = _kind(answer)
    if kind is None:
        raise RowError(RowReason.OPEN_ENDED, f"the answer {answer!r} is not of the closed vocabulary")
    generator = random.Random(f"{seed}:{row.get('video_id')}:{row.get('question_id')}")
    options = [answer]
    for pool in _sources(row, kind, pools):
        others = sorted(pool - set(options))
        options += generator.sample(others, min(OPTIONS - len(options), len(others)))
    generator.shuffle(options)
    return {
        "id": row.get("question_id"),
        "question": fill(row.get("question_content"), row.get("templ_values")),
        "options": options,
        "answer": answer,
        "video": row.get("video_id"),
        "question_type": question_type(row),
        "modality": question_type(row).partition("/")[0],
        "extra": {
            **{name: row[name] for name in ("video_id", "question_id", "templ_values") if name in row},
            "distractors": {"drawn_from": "answers to this type of question", "seed": seed},
        },
    }


def fill(template: Any, values: Any) -> str:
    """The question with its values in the place of ``<Object>`` and the like.

    Raises:
        RowError: there are more or fewer values than gaps.
    """
    if not isinstance(template, str):
        raise RowError(RowReason.BAD_QUESTION, f"`question_content` must be a text, got {template!r}")
    try:
        words = decode_json(values) if isinstance(values, str) else list(values or ())
    except (ValueError, TypeError) as error:
        raise RowError(RowReason.BAD_QUESTION, f"`templ_values` must be a JSON list, got {values!r}") from error
    gaps = PLACEHOLDER.findall(template)
    if not isinstance(words, list) or len(words) != len(gaps):
        raise RowError(RowReason.BAD_QUESTION, f"{template!r} has {len(gaps)} gaps, `templ_values` is {values!r}")
    remaining = iter(words)
    return PLACEHOLDER.sub(lambda _: str(next(remaining)), template).strip()


def _answer(row: dict[str, Any]) -> str | None:
    answer = row.get("anser", row.get("answer"))
    return answer.strip() if isinstance(answer, str) and answer.strip() else None


def _kind(answer: str) -> tuple[str, ...] | None:
    return next((words for words in VOCABULARY if answer in words), None)


def _sources(row: dict[str, Any], kind: tuple[str, ...], pools: Pools) -> list[set[str]]:
    """Where distractors are drawn from, in this order, until there are enough."""
    same = [pools.get((question_type(row), key), set()) for key in (row.get("question_content"), kind)]
    return same if any(len(pool) > 1 for pool in same) else [set(kind)]
