"""The beginning and the end of an evaluation run: the open items, and the numbers when all are done."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from avrt.evaluation.benchmarks import MISSING_MEDIA, Item, missing_media_record
from avrt.evaluation.harness_format import write_harness_files
from avrt.evaluation.question_sets import QuestionSet
from avrt.evaluation.records.log import RecordWriter, read_all_records, record_files
from avrt.evaluation.records.record import FIRST, Record, Variant
from avrt.evaluation.records.run_info import RunInfo
from avrt.evaluation.repeats import expected_variants, finished_items, first_replies
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
        answered: first replies of items, and final failures (`REPLY_INTERRUPTED`) in their place.
        missing: records of items whose media are missing, one per item.
        replies: every (item id, variant) that has a reply or a final failure; these are not repeated.
        noted: every (item id, variant) that the folder already records as missing.
        variants: the replies that every item needs.
    """

    answered: tuple[Record, ...]
    missing: tuple[Record, ...]
    replies: frozenset[tuple[str, Variant]] = frozenset()
    noted: frozenset[tuple[str, Variant]] = frozenset()
    variants: tuple[Variant, ...] = (FIRST,)

    @property
    def done(self) -> set[str]:
        """Ids of the items that need no further reply."""
        missing = {record.id for record in self.missing}
        return missing | {record.id for record in self.answered if not self.variants_left(record.id)}

    def variants_left(self, item: str) -> list[Variant]:
        """The replies that an item still needs."""
        return [variant for variant in self.variants if (item, variant) not in self.replies]


def run_state(run: Path, questions: QuestionSet, variants: Sequence[Variant] = (FIRST,)) -> RunState:
    """What earlier runs have left in a benchmark's folder and which media are missing; writes nothing.

    Args:
        variants: the replies that every item needs, see `avrt.evaluation.repeats.expected_variants`.
    """
    folder = run / questions.name
    known = read_all_records(folder) if record_files(folder) else []
    items = {item.sample.id for item in questions.items}
    final = {None, REPLY_INTERRUPTED} if any(record.failure is None for record in known) else {None}
    replied = [record for record in known if record.failure in final and record.id in items]
    replies = frozenset((record.id, record.variant) for record in replied)
    done = finished_items(replied, variants)
    missing = tuple(
        missing_media_record(questions.benchmark, item)
        for item in questions.items
        if item.missing and item.sample.id not in done
    )
    noted = frozenset((record.id, record.variant) for record in known if record.failure == MISSING_MEDIA)
    return RunState(tuple(first_replies(replied)), missing, replies, noted, tuple(variants))


def begin_run(run: Path, questions: QuestionSet, info: RunInfo) -> RunState:
    """Write ``run.json`` and the records of items whose media are missing; read the records of earlier runs.

    Call it in one process, before any of the run's processes writes.

    Raises:
        ValueError: the folder contains another run, or another process is writing there.
    """
    folder = run / questions.name
    info.write(folder)
    state = run_state(run, questions, expected_variants(info.decoding))
    unseen = [copy for record in state.missing for copy in every_variant(record, state.variants)]
    with RecordWriter(folder) as writer:
        writer.append(*(record for record in unseen if (record.id, record.variant) not in state.noted))
    return state


def every_variant(record: Record, variants: Iterable[Variant]) -> list[Record]:
    """The record of an item that cannot be shown, once for every reply that the item should have."""
    return [replace(record, repeat=repeat, thinking_budget=budget) for repeat, budget in variants]


def report_missing(questions: QuestionSet, state: RunState, console: Console) -> None:
    """Print missing questions and media when the run begins: at its end it would be too late to download them."""
    if questions.count_note:
        console.print(questions.count_note, highlight=False, soft_wrap=True, markup=False)
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
        variants = expected_variants(RunInfo.read(folder).decoding)
        answered = len(finished_items(read_all_records(folder), variants))
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
