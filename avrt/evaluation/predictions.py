"""Import of replies that another program generated, as the records of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from avrt.evaluation.benchmarks import Item, new_record
from avrt.evaluation.prediction_files import PredictionFile
from avrt.evaluation.question_sets import QuestionSet
from avrt.evaluation.records.log import RecordWriter, read_all_records, record_files
from avrt.evaluation.records.record import Record
from avrt.evaluation.repeats import REPEATS
from avrt.evaluation.run_lifecycle import begin_run
from avrt.text.answers import Profile
from avrt.text.prompts import AnswerFormat

NO_PREDICTION = "no_prediction"
"""`Record.failure` of an item that is not in the file; it counts as wrong, like every item without a reply."""


def import_predictions(
    run: Path,
    questions: QuestionSet,
    file: PredictionFile,
    *,
    name: str,
    model: str,
    answer_format: AnswerFormat,
    profile: Profile,
    source: str,
) -> int:
    """Write the records of imported replies; returns how many items have none.

    Several replies per item are a run with as many repeats; an item with fewer of them has a failure in their place.

    Args:
        run: the run's folder.
        file: the replies.
        name: the run's name in tables.
        model: the model that generated the replies.
        answer_format, profile: see `RunInfo`.
        source: name of the file, kept in ``run.json``.

    Raises:
        ValueError: the folder contains another run, or other replies.
    """
    decoding: dict[str, Any] = {"imported": source}
    if file.repeats > 1:
        decoding[REPEATS] = file.repeats
    info = questions.run_info(
        run=name, model=model, answer_format=answer_format, profile=profile, media=None, decoding=decoding
    )
    # The model had the media when it replied; whether they are here does not matter.
    items = [replace(item, missing=()) for item in questions.items]
    state = begin_run(run, replace(questions, items=items), info)
    records = list(_records(questions, items, file))
    folder = run / questions.name
    earlier = read_all_records(folder) if record_files(folder) else []
    known = {(record.id, record.variant): record.text for record in earlier if record.failure is None}
    for record in records:
        if record.failure is None and known.get((record.id, record.variant), record.text) != record.text:
            raise ValueError(f"{run}: already has another reply to {record.id!r}; import into another folder")
    with RecordWriter(folder) as writer:
        writer.append(*(record for record in records if (record.id, record.variant) not in state.replies))
    return sum(not file.replies.get(item.sample.id) for item in items)


def _records(questions: QuestionSet, items: Sequence[Item], file: PredictionFile) -> Iterator[Record]:
    for item in items:
        replies = file.replies.get(item.sample.id, ())
        for repeat in range(file.repeats):
            if repeat < len(replies):
                yield new_record(questions.benchmark, item, **asdict(replies[repeat]), repeat=repeat)
            else:
                failed = questions.failed(item, NO_PREDICTION, "the imported file has no reply to it")
                yield replace(failed, repeat=repeat)
