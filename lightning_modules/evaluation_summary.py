"""The result of an evaluation for the loggers: scores, some replies with a clip, curves of repeats and budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lightning.pytorch import Trainer

from avrt.evaluation.item_clips import join_clips
from avrt.evaluation.media_config import MediaConfig
from avrt.evaluation.number_format import interval, percent
from avrt.evaluation.question_sets import QuestionSet
from avrt.evaluation.records.record import Record
from avrt.evaluation.repeats import REPEATS, THINKING_CURVE
from avrt.evaluation.scoring import BenchmarkRun
from avrt.sample import LETTERS, Sample
from lightning_modules.callbacks.samples import COMPLETION_COLUMNS, QUESTION_COLUMNS, log_clip, wrap
from lightning_modules.loggers.trackers import Table, trackers

SHOWN = 3
"""Right replies shown per benchmark, and wrong ones."""


def log_summary(
    trainer: Trainer, scored: Sequence[BenchmarkRun], question_sets: Mapping[str, QuestionSet], media: MediaConfig
) -> None:
    """Log finished benchmarks; call it on the first device.

    ``evaluation/scores`` (table), per benchmark ``evaluation/<benchmark>`` (table of replies, with frames and audio of
    the first one), and as numbers ``test/<benchmark>/mean_accuracy``, ``pass_at_<k>`` and ``majority_accuracy``, and
    ``test/<benchmark>/accuracy_by_budget`` with the budget in place of the step.
    """
    if not scored:
        return
    for tracker in trackers(trainer):
        tracker.table("evaluation/scores", score_table(scored), 0)
        for entry in scored:
            name, shown = entry.info.benchmark, shown_records(entry.records)
            if not shown:
                continue
            tracker.table(f"evaluation/{name}", reply_table(shown), 0)
            questions = question_sets[name]
            item = next((item for item in questions.items if item.sample.id == shown[0].id), None)
            sample = None if item is None else questions.show(item, media)
            if isinstance(sample, Sample):
                log_clip(tracker, join_clips(sample.clips), 0, f"evaluation/{name}")
    for logger in trainer.loggers:
        for entry in scored:
            for step, values in points(entry):
                logger.log_metrics(values, step=step)


def points(entry: BenchmarkRun) -> list[tuple[int, dict[str, float]]]:
    """Numbers of several replies at step 0, and the curve of budgets, each at its budget."""
    prefix = f"test/{entry.info.benchmark}"
    found: list[tuple[int, dict[str, float]]] = []
    repeats = entry.metrics.get(REPEATS)
    if repeats and repeats["items"]:
        values = {f"pass_at_{k}": share for k, share in repeats["pass_at"].items()}
        values["mean_accuracy"] = repeats["mean"]["accuracy"]
        values["majority_accuracy"] = repeats["majority"]["accuracy"]
        found.append((0, {f"{prefix}/{name}": value for name, value in values.items()}))
    for point in entry.metrics.get(THINKING_CURVE, ()):
        if point["budget"] is not None and point["accuracy"] is not None:
            found.append((point["budget"], {f"{prefix}/accuracy_by_budget": point["accuracy"]}))
    return found


def score_table(scored: Sequence[BenchmarkRun]) -> Table:
    """The table of scores that the command prints, as text."""
    rows = []
    for entry in scored:
        strict, official, errors = (entry.metrics[name] for name in ("strict", "official", "errors"))
        rows.append(
            [
                entry.info.benchmark,
                f"{strict['items']:,}",
                percent(strict["accuracy"]),
                interval(strict["interval"]),
                percent(official["accuracy"]),
                *(f"{errors[name]:,}" for name in ("instruction_format", "logic", "no_reply")),
            ]
        )
    header = ["benchmark", "items", "strict, %", "95 % interval", "official, %", "format errors", "logic errors"]
    return Table([*header, "no reply"], rows, note=f"model: {scored[0].info.model}")


def shown_records(records: Sequence[Record]) -> list[Record]:
    """The first wrong and the first right replies."""
    replied = [record for record in records if record.failure is None]
    wrong = [record for record in replied if not record.correct_strict][:SHOWN]
    return wrong + [record for record in replied if record.correct_strict][:SHOWN]


def reply_table(records: Sequence[Record]) -> Table:
    """Replies and how they were read; frames and audio belong to the first row."""
    rows = []
    for record in records:
        reading = [
            "right" if record.correct_strict else "wrong",
            f"answer {record.answer or 'none'}",
            record.reason or "",
        ]
        options = (f"{letter}. {text}" for letter, text in zip(LETTERS, record.options, strict=False))
        question = wrap("\n".join([record.question, *options, f"gold {record.gold}"]), QUESTION_COLUMNS)
        rows.append(["\n".join([*reading, record.id]), question, wrap(record.text, COMPLETION_COLUMNS)])
    return Table(["reading", "question", "reply"], rows)
