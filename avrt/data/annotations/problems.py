"""Rows of R1-style training sets: ``problem``, labeled ``options``, ``solution`` with an answer tag.

AVQA-R1-6K (EchoInk) has the image and the audio in ``path``; Video-R1 has one path and ``data_type``; HumanOmniV2 has
both ``path`` and ``video``. Their free-form, numerical and regression problems have no options.
"""

from __future__ import annotations

from typing import Any

from avrt.data.annotations.choices import split_question
from avrt.data.annotations.rows import RowError, RowReason
from avrt.text.answers import answer_body

Row = dict[str, Any]

MEDIA = ("video", "audio", "image")


def from_problem(row: Row) -> Row:
    """A row with plain keys.

    Raises:
        RowError: ``open_ended``: a problem without options, or a ``path`` whose kind of media is not stated.
    """
    options: Any = row.get("options")
    question = row["problem"]
    if not options and not (isinstance(question, str) and split_question(question)):
        raise RowError(RowReason.OPEN_ENDED, f"a problem without options ({row.get('problem_type') or 'no type'})")
    solution = row["solution"]
    reasoning = None
    if isinstance(solution, str) and "<think>" in solution:
        reasoning = solution
    elif isinstance(row.get("process"), str) and row["process"].strip() and isinstance(solution, str):
        reasoning = f"{row['process']}\n{solution}"
    consumed = {"problem", "options", "solution", "problem_id", "problem_type", "data_type", "path", "process", *MEDIA}
    return {
        "id": row.get("problem_id", row.get("id")),
        "question": question,
        "options": options or None,
        "answer": _answer(row, solution),
        "reasoning": reasoning,
        "question_type": row.get("problem_type"),
        "modality": row.get("data_type"),
        "extra": {name: value for name, value in row.items() if name not in consumed | {"id"}},
        **_media(row),
    }


def _answer(row: Row, solution: Any) -> Any:
    if isinstance(solution, str) and "<answer>" in solution and answer_body(solution) is None and row.get("answer"):
        return row["answer"]
    return solution


def _media(row: Row) -> Row:
    media = {name: row.get(name) or row.get(f"{name}s") for name in MEDIA}
    path = row.get("path")
    if isinstance(path, dict):
        unknown = sorted(set(path) - set(MEDIA))
        if unknown:
            raise RowError(RowReason.BAD_MEDIA, f"`path` has {', '.join(unknown)}; expected {', '.join(MEDIA)}")
        media |= path
    elif path and not any(media.values()):
        kind = row.get("data_type") or "video"
        if kind not in MEDIA:
            raise RowError(RowReason.BAD_MEDIA, f"`data_type` is {kind!r}, but `path` is one file: {path!r}")
        media[kind] = path
    return media
