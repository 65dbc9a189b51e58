"""The beginning and the end of an evaluation run: the open items, and the numbers when all are done."""

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


REPLY_INTERRUPTED = "reply_interrupted"
"""`Record.failure`: the model ended its reply otherwise than with an answer (a refusal, a tool call, a content filter).
This is final, like an answer, once the benchmark has any reply: before that, a setting may be the cause of all."""


@dataclass(frozen=True)
class RunState:
    """The records of a benchmark's folder when a run begins.

    Attributes:
        answered: records with a reply, and final failures (`REPLY_INTERRUPTED`); these items are not repeated.
        missing: records of items whose media are missing.
        noted: ids of the items that the folder already records as missing.
    """

    answered: tuple[Record, ...]
    missing: tuple[Record, ...]
    noted: frozenset[str] = frozenset()

    @property
    def done(self) -> set[str]:
        """Ids of the items that need no reply."""
        return {record.id for record in self.answered + self.missing}


def run_state(run: Path, questions: QuestionSet) -> RunState:
    """What earlier runs have left in a benchmark's folder and which media are missing; writes nothing."""
    folder = run / questions.name
    known = {record.id: record for record in read_records(folder)} if record_files(folder) else {}
    items = {item.sample.id for item in questions.items}
    final = {None, REPLY_INTERRUPTED} if any(record.failure is None for record in known.values()) else {None}
    answered = tuple(record for record in known.values() if record.failure in final and record.id in items)
    done = {record.id for record in answered}
    missing = tuple(
        missing_media_record(questions.benchmark, item)
        for item in questions.items
        if item.missing and item.sample.id not in done
    )
    noted = frozenset(record.id for record in known.values() if record.failure == MISSING_MEDIA)
    return RunState(answered, missing, noted)


def begin_run(run: Path, questions: QuestionSet, info: RunInfo) -> RunState:
    """Write ``run.json`` and the records of items whose media are missing; read the records of earlier runs.

    Call it in one process, before any of the run's processes writes.

    Raises:
        ValueError: the folder contains another run, or another process is writing there.
    """
    folder = run / questions.name
    info.write(folder)
    state = run_state(run, questions)
    with RecordWriter(folder) as writer:
        writer.append(*(record for record in state.missing if record.id not in state.noted))
    return state


def report_missing(questions: QuestionSet, state: RunState, console: Console) -> None:
    """Print missing media when the run begins: at its end it would be too late to download them."""
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


def batches_left(items: Sequence[Item], done: Iterable[str], batch_size: int) -> list[list[int]]:
    """Indices of the items of every batch with an item that needs a reply.

    The items of a batch depend only on the items and the batch size, so a reply does not depend on kills, resumes or
    the number of devices: sums in another order would round differently.

    Args:
        items: all items; those whose media are missing are in no batch.
        done: ids of the items that need no reply.
        batch_size: items per batch.
    """
    finished = set(done)
    shown = [place for place, item in enumerate(items) if not item.missing]
    batches = [shown[start : start + batch_size] for start in range(0, len(shown), batch_size)]
    return [batch for batch in batches if any(items[place].sample.id not in finished for place in batch)]


def finish_run(
    run: Path, question_sets: Sequence[QuestionSet], console: Console, harness: bool = True
) -> list[BenchmarkRun]:
    """Merge, score and print a run's records; call it in one process, when no process writes any more.

    A benchmark that is not finished (the run was limited) is not scored, and a line says so.

    Args:
        run: the run's folder.
        question_sets: the benchmarks of this run.
        console: console for the table.
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
                "to continue",
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
