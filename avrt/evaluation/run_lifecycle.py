"""Beginning and ending an evaluation run's folder: what is left to do, and the numbers when all is done."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from avrt.evaluation.benchmarks import MISSING_MEDIA, Item, missing_media_record
from avrt.evaluation.harness_format import write_harness_files
from avrt.evaluation.question_sets import QuestionSet
from avrt.evaluation.records.log import RecordWriter, read_records, record_files
from avrt.evaluation.records.record import Record
from avrt.evaluation.records.run_info import RunInfo
from avrt.evaluation.scoring import BenchmarkRun, score_run, write_scores
from avrt.evaluation.terminal_tables import print_scores

HARNESS_FOLDER = "harness"
"""Sub-folder of a run with lm-evaluation-harness's files."""


@dataclass(frozen=True)
class RunState:
    """What a benchmark's folder holds when a run begins.

    Attributes:
        answered: records with a reply: these items are left alone.
        missing: records of items whose media are not there.
    """

    answered: tuple[Record, ...]
    missing: tuple[Record, ...]

    @property
    def done(self) -> set[str]:
        """Ids of the items that need no reply any more."""
        return {record.id for record in self.answered + self.missing}


def begin_run(run: Path, questions: QuestionSet, info: RunInfo) -> RunState:
    """Write ``run.json`` and the records of items whose media are missing; find what earlier runs have left.

    Call on one process, before any of the run's processes writes.

    Raises:
        ValueError: the folder holds another run, or another process is writing there.
    """
    folder = run / questions.name
    info.write(folder)
    known = {record.id: record for record in read_records(folder)} if record_files(folder) else {}
    items = {item.sample.id for item in questions.items}
    answered = tuple(record for record in known.values() if record.failure is None and record.id in items)
    done = {record.id for record in answered}
    missing = tuple(
        missing_media_record(questions.benchmark, item)
        for item in questions.items
        if item.missing and item.sample.id not in done
    )
    with RecordWriter(folder) as writer:
        writer.append(*(record for record in missing if not _says_missing(known.get(record.id))))
    return RunState(answered, missing)


def report_missing(questions: QuestionSet, state: RunState, console: Console) -> None:
    """Say at the run's beginning which media are not there: at its end it would be too late to fetch them."""
    if state.missing:
        files = [path for item in questions.items for path in item.missing]
        console.print(
            f"{questions.name}: media of {len(state.missing)} of {len(questions.items)} items are missing and these "
            f"items count as wrong; looked in {questions.data_root} for {', '.join(files[:3])}"
            + (f" and {len(files) - 3} more" if len(files) > 3 else ""),
            highlight=False,
            soft_wrap=True,
            markup=False,
        )


def _says_missing(record: Record | None) -> bool:
    return record is not None and record.failure == MISSING_MEDIA


def batches_left(items: Sequence[Item], done: Iterable[str], batch_size: int) -> list[list[int]]:
    """Indices of the items of every batch in which a reply is wanted.

    Which items share a batch depends on the items and the batch size alone, so a reply is the same whatever was
    killed, resumed, or shared out over however many devices: adding up in another order would round differently.

    Args:
        items: all items; those whose media are missing are in no batch.
        done: ids of the items that need no reply any more.
        batch_size: items of a batch.
    """
    finished = set(done)
    shown = [place for place, item in enumerate(items) if not item.missing]
    batches = [shown[start : start + batch_size] for start in range(0, len(shown), batch_size)]
    return [batch for batch in batches if any(items[place].sample.id not in finished for place in batch)]


def finish_run(
    run: Path, question_sets: Sequence[QuestionSet], console: Console, harness: bool = True
) -> list[BenchmarkRun]:
    """Gather, score and print what a run has answered; call on one process, when none writes any more.

    A benchmark that is not finished (the run was limited) is left as it is, and said to be.

    Args:
        run: the run's folder.
        question_sets: the benchmarks of this run.
        console: where the table goes.
        harness: also write lm-evaluation-harness's files, into `HARNESS_FOLDER`.

    Returns:
        The finished benchmarks.
    """
    scored: list[BenchmarkRun] = []
    for questions in question_sets:
        folder = run / questions.name
        answered = len(read_records(folder))
        if answered < len(questions.items):
            console.print(
                f"{questions.name}: {answered} of {len(questions.items)} items are done; run the same command again "
                "to go on",
                highlight=False,
                soft_wrap=True,
            )
            continue
        (entry,) = score_run(folder)
        write_scores(entry)
        scored.append(entry)
    if scored:
        print_scores(scored, console)
        if harness:
            write_harness_files(scored, run / HARNESS_FOLDER)
        console.print(f"records and numbers: {run}", highlight=False, soft_wrap=True, markup=False)
    return scored
