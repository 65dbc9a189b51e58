"""Scores: from raw replies to every number of a run.

The strict score reads a reply with `avrt.text.answers`, the project's one parser, in the run's profile. An item is
right if the clearly chosen option has the gold option's text; everything else is wrong, and every item counts.
The benchmark's own rule (`avrt.evaluation.benchmarks.official_rules`) is scored beside it.

The bytes of ``metrics.json`` depend only on the raw part of the records, not on times or the order of files.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avrt.evaluation.benchmarks import BENCHMARKS, load_benchmark_of
from avrt.evaluation.records.log import METRICS_FILE, read_records, write_records
from avrt.evaluation.records.record import ErrorType, Record
from avrt.evaluation.records.run_info import RunInfo, benchmark_folders
from avrt.evaluation.statistics import wilson_interval
from avrt.files.atomic import write_atomic
from avrt.sample import LETTERS
from avrt.text import answers
from avrt.text.answers import Profile
from avrt.text.prompts import AnswerFormat

CONFIDENCE = 0.95

OWN_RULE = "ours: no benchmark of the registry"
"""`official.rule` of a question set that is not one of the known benchmarks; the strict score is used for both."""


@dataclass(frozen=True)
class BenchmarkRun:
    """One benchmark of one run, scored.

    Attributes:
        folder: ``<run>/<benchmark>``.
        info: its ``run.json``.
        records: all items in the benchmark's order, with their derived part.
        metrics: the content of ``metrics.json``.
    """

    folder: Path
    info: RunInfo
    records: list[Record]
    metrics: dict[str, Any]


def profile_for(answer_format: AnswerFormat) -> Profile:
    """The default parser profile: ``paper`` if the prompt asks for tags, ``robust`` for bare letters."""
    return "paper" if answer_format == "tags" else "robust"


def grade_record(record: Record, profile: Profile) -> Record:
    """The record with its derived part computed from its raw part. Raises for no reply, however odd."""
    correct, answer = False, None
    if record.failure is not None:
        reason = record.failure
    else:
        parsed = _parse(record, profile)
        answer, reason = parsed.letter, str(parsed.reason)
        correct = answer is not None and is_gold(answer, record)
    error: ErrorType = "none"
    if not correct:
        error = "no_reply" if record.failure is not None else "instruction_format" if answer is None else "logic"
    benchmark = BENCHMARKS.get(record.benchmark)
    rule = benchmark.official if benchmark else None
    return dataclasses.replace(
        record,
        answer=answer,
        reason=reason,
        correct_strict=correct,
        correct_official=correct if rule is None else rule(record),
        error_type=error,
    )


def is_gold(letter: str, record: Record) -> bool:
    """Whether a letter names the gold option, or another option with the same text.

    `avrt.sample.Sample.is_right` compares letters only. That is enough for training data, but 27 questions of MMAU have
    two options with the same text, and a benchmark must not count the second one as wrong.
    """
    texts = record.options
    return texts[LETTERS.index(letter)].strip() == texts[LETTERS.index(record.gold)].strip()


def _parse(record: Record, profile: Profile) -> answers.ParsedAnswer:
    parsed = answers.parse(record.text, record.options, profile, record.finish_reason)
    texts = [option.strip() for option in record.options]
    if parsed.letter is not None or len(set(texts)) == len(texts):
        return parsed
    # A reply with the text of two equal options names one answer, not two: all but the first get another text.
    single = [text if texts.index(text) == place else f"option {place}, a twin" for place, text in enumerate(texts)]
    again = answers.parse(record.text, single, profile, record.finish_reason)
    return again if again.letter is not None else parsed


def score_run(run: str | Path, *, partial: bool = False) -> list[BenchmarkRun]:
    """Score all benchmarks of a run folder (or one benchmark's folder) from the raw replies; writes nothing.

    Args:
        run: the run's folder.
        partial: accept an unfinished run; its numbers are over the items that it has.

    Raises:
        ValueError: no run, an unfinished benchmark, records of another benchmark or too many items.
    """
    return [_score_folder(folder, partial) for folder in benchmark_folders(run)]


def write_scores(scored: BenchmarkRun) -> None:
    """Write ``records.jsonl`` with the derived part, and ``metrics.json``, each atomically."""
    write_records(scored.folder, scored.records)
    text = json.dumps(scored.metrics, indent=2, allow_nan=False) + "\n"
    write_atomic(scored.folder / METRICS_FILE, text.encode())


def summarize(records: Sequence[Record], info: RunInfo) -> dict[str, Any]:
    """Every number of a benchmark's scored records, as JSON values; accuracies and intervals are shares in [0, 1].

    Keys: the settings of the run; ``strict`` and ``official`` (correct, items, accuracy, interval); ``errors`` by type;
    ``reasons``; ``formatted`` (share of replies with the right tags, None for other formats); ``categories`` (each with
    the same two scores); ``answers`` and ``gold`` (counts of each letter); ``tokens``.
    """
    benchmark = BENCHMARKS.get(info.benchmark)
    names = sorted({name for record in records for name in record.categories})
    completion = [record.completion_tokens for record in records if record.completion_tokens is not None]
    prompt = [record.prompt_tokens for record in records if record.prompt_tokens is not None]
    replies = [record for record in records if record.failure is None]
    formatted = sum(answers.is_formatted(record.text) for record in replies) / max(1, len(records))
    return {
        "run": info.run,
        "benchmark": info.benchmark,
        "model": info.model,
        "modalities": info.modalities,
        "answer_format": info.answer_format,
        "profile": info.profile,
        "subset": info.subset,
        "dataset_fingerprint": info.dataset_fingerprint,
        "items": info.items,
        "complete": len(records) == info.items,
        "strict": strict_score(records),
        "official": {"rule": benchmark.official_source if benchmark else OWN_RULE, **official_score(records)},
        "errors": _counts(
            (record.error_type for record in records), ("none", "instruction_format", "logic", "no_reply")
        ),
        "reasons": _counts(record.reason for record in records),
        "formatted": formatted if info.answer_format == "tags" else None,
        "categories": {
            name: {
                value: {"strict": strict_score(part), "official": official_score(part)}
                for value, part in _by_category(records, name)
            }
            for name in names
        },
        "answers": _counts(record.answer or "none" for record in records),
        "gold": _counts(record.gold for record in records),
        "tokens": {
            "prompt_mean": _mean(prompt),
            "completion_mean": _mean(completion),
            "completion_max": max(completion, default=None),
            "truncated": sum(record.finish_reason == "length" for record in replies),
        },
    }


def strict_score(records: Sequence[Record]) -> dict[str, Any]:
    """The strict accuracy over all of the records, with its Wilson interval."""
    return share_score([record.correct_strict for record in records])


def official_score(records: Sequence[Record]) -> dict[str, Any]:
    """The accuracy by the benchmark's own rule, over the items that this rule counts."""
    return share_score([record.correct_official for record in records if record.correct_official is not None])


def _score_folder(folder: Path, partial: bool) -> BenchmarkRun:
    info = RunInfo.read(folder)
    load_benchmark_of(info)
    records = read_records(folder)
    for record in records:
        if record.benchmark != info.benchmark:
            raise ValueError(
                f"{folder}: record {record.id!r} is of {record.benchmark!r}, but the run is of {info.benchmark!r}"
            )
    if len(records) > info.items:
        raise ValueError(
            f"{folder}: has {len(records)} items instead of {info.items}; two runs may be mixed "
            "here: keep each in its own folder"
        )
    if len(records) < info.items and not partial:
        raise ValueError(
            f"{folder}: has {len(records)} of {info.items} items; resume the run, or pass --partial to score these"
        )
    scored = [grade_record(record.raw(), info.profile) for record in records]
    return BenchmarkRun(folder, info, scored, summarize(scored, info))


def share_score(outcomes: Sequence[bool | None]) -> dict[str, Any]:
    """Right outcomes over all of them, with Wilson's interval: ``correct``, ``items``, ``accuracy``, ``interval``."""
    correct, items = sum(map(bool, outcomes)), len(outcomes)
    return {
        "correct": correct,
        "items": items,
        "accuracy": correct / items if items else None,
        "interval": list(wilson_interval(correct, items, CONFIDENCE)),
    }


def _by_category(records: Sequence[Record], name: str) -> list[tuple[str, list[Record]]]:
    parts: dict[str, list[Record]] = {}
    for record in records:
        if name in record.categories:
            parts.setdefault(record.categories[name], []).append(record)
    return sorted(parts.items())


def _counts(values: Iterable[Any], always: Sequence[str] = ()) -> dict[str, int]:
    counter = Counter(values)
    return {key: counter[key] for key in always} | {key: counter[key] for key in sorted(set(counter) - set(always))}


def _mean(values: Sequence[int]) -> float | None:
    return math.fsum(values) / len(values) if values else None
