"""Import of replies that another program generated, as the records of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from avrt.evaluation.benchmarks import Item, new_record
from avrt.evaluation.prediction_files import Prediction
from avrt.evaluation.question_sets import QuestionSet
from avrt.evaluation.records.log import RecordWriter
from avrt.evaluation.records.record import Record
from avrt.evaluation.run_lifecycle import begin_run
from avrt.text.answers import Profile
from avrt.text.prompts import AnswerFormat

NO_PREDICTION = "no_prediction"
"""`Record.failure` of an item that is not in the file; it counts as wrong, like every item without a reply."""


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
            yield new_record(questions.benchmark, item, **asdict(reply))
