"""Import of replies that another program generated, as the records of a run.

Two formats of JSON lines are read: ``{"id": ..., "text": ...}``, and the sample files of lm-evaluation-harness and of
tools that share its format (``samples_<task>_<date>.jsonl`` with ``doc_id``, ``doc`` and ``resps``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from avrt.evaluation.benchmarks import Item, new_record
from avrt.evaluation.question_sets import QuestionSet
from avrt.evaluation.records.log import RecordWriter
from avrt.evaluation.records.record import Record
from avrt.evaluation.run_lifecycle import begin_run
from avrt.files.json_rows import read_json_rows
from avrt.text.answers import Profile
from avrt.text.prompts import AnswerFormat

NO_PREDICTION = "no_prediction"
"""`Record.failure` of an item that is not in the file; it counts as wrong, like every item without a reply."""


@dataclass(frozen=True)
class Prediction:
    """One reply of a file.

    Attributes:
        text: the reply, unchanged.
        finish_reason: ``stop`` or ``length``.
    """

    text: str
    finish_reason: str = "stop"


def read_predictions(path: str | Path, items: Sequence[Item]) -> dict[str, Prediction]:
    """The replies of a file, by item id.

    A sample of the harness belongs to the item that ``doc.id`` names, or else to item number ``doc_id`` in the
    benchmark's order; the sample must then contain its question. A reply may occur again (the harness writes a sample
    once per filter), but not a different one to the same item.

    Raises:
        ValueError: a line has neither format, belongs to no item, or contradicts an earlier one; names file and line.
    """
    path = Path(path)
    by_id = {item.sample.id: item for item in items}
    by_place = {item.index: item for item in items}
    found: dict[str, Prediction] = {}
    for number, row in enumerate(read_json_rows(path), start=1):
        where = f"{path}: entry {number}"
        if "resps" in row:
            item_id, prediction = _sample_item(row, by_id, by_place, where), Prediction(_response(row, where))
        elif "id" in row and "text" in row:
            if not isinstance(row["text"], str):
                raise ValueError(
                    f"{where}: `text` of {str(row['id'])!r} must be a text, got {json.dumps(row['text'])[:80]}; write "
                    '"" for an empty reply, or leave the entry out where there was none'
                )
            item_id, prediction = str(row["id"]), Prediction(row["text"], _finish_reason(row, where))
        else:
            raise ValueError(f"{where}: needs `id` and `text`, or `doc_id`, `doc` and `resps`")
        if item_id not in by_id:
            raise ValueError(f"{where}: {item_id!r} is not an item of this benchmark")
        if found.setdefault(item_id, prediction) != prediction:
            raise ValueError(f"{where}: an earlier entry gives another reply to {item_id!r}")
    if not found:
        raise ValueError(f"{path}: has no predictions")
    return found


def import_predictions(
    run: Path,
    questions: QuestionSet,
    predictions: dict[str, Prediction],
    *,
    name: str,
    model: str,
    answer_format: AnswerFormat,
    profile: Profile,
    source: str,
) -> int:
    """Write the records of imported replies; returns how many items have none.

    Args:
        run: the run's folder.
        name: the run's name in tables.
        model: the model that generated the replies.
        answer_format, profile: see `RunInfo`.
        source: name of the file, kept in ``run.json``.

    Raises:
        ValueError: the folder contains another run, or other replies.
    """
    info = questions.run_info(
        run=name, model=model, answer_format=answer_format, profile=profile, media=None, decoding={"imported": source}
    )
    # The model had the media when it replied; whether they are here does not matter.
    items = [replace(item, missing=()) for item in questions.items]
    state = begin_run(run, replace(questions, items=items), info)
    for record in state.answered:
        reply = predictions.get(record.id)
        if reply is not None and reply.text != record.text:
            raise ValueError(f"{run}: already has another reply to {record.id!r}; import into another folder")
    records = list(_records(questions, items, predictions))
    with RecordWriter(run / questions.name) as writer:
        writer.append(*(record for record in records if record.id not in state.done))
    return sum(record.failure is not None for record in records)


def _records(questions: QuestionSet, items: Sequence[Item], predictions: dict[str, Prediction]) -> Iterator[Record]:
    for item in items:
        reply = predictions.get(item.sample.id)
        if reply is None:
            yield questions.failed(item, NO_PREDICTION, "the imported file has no reply to it")
        else:
            yield new_record(questions.benchmark, item, text=reply.text, finish_reason=reply.finish_reason)


def _sample_item(row: dict[str, Any], by_id: dict[str, Item], by_place: dict[int, Item], where: str) -> str:
    doc = row.get("doc")
    if isinstance(doc, dict) and str(doc.get("id")) in by_id:
        return str(doc["id"])
    place = row.get("doc_id")
    item = by_place.get(place) if isinstance(place, int) else None
    if item is None:
        raise ValueError(f"{where}: neither `doc.id` nor `doc_id` ({place!r}) names an item of this benchmark")
    shown = json.dumps([doc, row.get("arguments")], ensure_ascii=False)
    if json.dumps(item.sample.question, ensure_ascii=False)[1:-1] not in shown:
        raise ValueError(
            f"{where}: `doc_id` {place} is item {item.sample.id!r} here, whose question is not in the sample; "
            "the file has another order: convert it to lines of {id, text}"
        )
    return item.sample.id


def _response(row: dict[str, Any], where: str) -> str:
    """The one reply in ``resps``: ``[["text"]]``, or ``["text"]``."""
    value = row["resps"]
    while isinstance(value, list):
        if len(value) != 1:
            raise ValueError(f"{where}: `resps` must have one reply, got {len(value)}")
        value = value[0]
    if not isinstance(value, str):
        raise ValueError(f"{where}: `resps` must have a reply as text")
    return value


def _finish_reason(row: dict[str, Any], where: str) -> str:
    reason = row.get("finish_reason", "stop")
    if reason not in ("stop", "length"):
        raise ValueError(f"{where}: `finish_reason` must be 'stop' or 'length', got {reason!r}")
    return reason
