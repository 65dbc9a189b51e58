"""Scores: from raw replies to every number of a run.

The strict score reads a reply with `avrt.text.answers`, the project's one parser, in the run's profile. An item is
right if the clearly chosen option has the gold option's text; everything else is wrong, and every item counts.
The benchmark's own rule (`avrt.evaluation.benchmarks.official_rules`) is scored beside it twice: on the reply as the
model wrote it (``official``), and on its answer's text alone (``official_answer``, see `avrt.evaluation.answer_part`).

The bytes of ``metrics.json`` depend only on the raw part of the records, not on times or the order of files.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from avrt.evaluation.answer_part import answer_record
from avrt.evaluation.benchmarks import BENCHMARKS, load_benchmark_of
from avrt.evaluation.records.log import METRICS_FILE, read_all_records, write_records
from avrt.evaluation.records.record import FIRST, ErrorType, Record
from avrt.evaluation.records.run_info import RunInfo, benchmark_folders
from avrt.evaluation.repeats import expected_variants, finished_items, first_replies, further_scores
from avrt.evaluation.statistics import clustered_interval, standard_error, wilson_interval
from avrt.files.atomic import write_atomic
from avrt.sample import LETTERS
from avrt.text import answers
from avrt.text.answers import Profile
from avrt.text.prompts import AnswerFormat

CONFIDENCE = 0.95

OWN_RULE = "ours: questions of your own have no rule of others"
"""`official.rule` of a question set that is not one of the known benchmarks; the strict score is used for both."""


@dataclass(frozen=True)
class BenchmarkRun:
    """One benchmark of one run, scored.

    Attributes:
        folder: ``<run>/<benchmark>``.
        info: its ``run.json``.
        records: all items in the benchmark's order, with their derived part; of several replies to an item, the first.
        metrics: the content of ``metrics.json``.
        further: the other replies to the items, where the run has any.
        rule: the older official rule that it was scored by, or None.
        limited: the items were limited after the run, see `avrt.evaluation.run_subsets`.
    """

    folder: Path
    info: RunInfo
    records: list[Record]
    metrics: dict[str, Any]
    further: list[Record] = field(default_factory=list)
    rule: str | None = None
    limited: bool = False

    @property
    def column(self) -> str:
        """Its column in tables: the benchmark's name, with the subset's if it was limited to one after the run."""
        return f"{self.info.benchmark}:{self.info.subset}" if self.limited else self.info.benchmark


def profile_for(answer_format: AnswerFormat) -> Profile:
    """The default parser profile: ``paper`` if the prompt asks for tags, ``robust`` for bare letters."""
    return "paper" if answer_format == "tags" else "robust"


def grade_record(record: Record, profile: Profile, rule: str | None = None) -> Record:
    """The record with its derived part computed from its raw part. Raises for no reply, however odd.

    Args:
        profile: parser profile of the strict score.
        rule: an earlier official rule, by its name in `Benchmark.older_rules`; for the benchmark that has it.
    """
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
    on_reply, on_answer = _official(record, rule) or (correct, correct)
    return dataclasses.replace(
        record,
        answer=answer,
        reason=reason,
        correct_strict=correct,
        correct_official=on_reply,
        correct_official_answer=on_answer,
        error_type=error,
    )


def _official(record: Record, older: str | None) -> tuple[bool | None, bool | None] | None:
    """The benchmark's own rule on the reply and on its answer's text; None if it has no rule of its own."""
    benchmark = BENCHMARKS.get(record.benchmark)
    if benchmark is None or benchmark.official is None:
        return None
    rule, _ = benchmark.older_rules.get(older or "", (benchmark.official, ""))
    return rule(record), rule(answer_record(record, benchmark.compares_texts))


def check_rule(rule: str | None) -> None:
    """Refuse a name that no benchmark's older rule has.

    Raises:
        ValueError: lists the names.
    """
    names = [name for benchmark in BENCHMARKS.values() for name in benchmark.older_rules]
    if rule is not None and rule not in names:
        raise ValueError(f"--official-rule: must be one of {', '.join(names)}, got {rule!r}")


def rule_source(benchmark: str, rule: str | None = None) -> str:
    """The source of the official rule that a benchmark's replies are scored by, in a few words."""
    known = BENCHMARKS.get(benchmark)
    if known is None:
        return OWN_RULE
    return known.older_rules[rule][1] if rule and rule in known.older_rules else known.official_source


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


def score_run(run: str | Path, *, partial: bool = False, rule: str | None = None) -> list[BenchmarkRun]:
    """Score all benchmarks of a run folder (or one benchmark's folder) from the raw replies; writes nothing.

    Args:
        run: the run's folder.
        partial: accept an unfinished run; its numbers are over the items that it has.
        rule: see `grade_record`.

    Raises:
        ValueError: no run, an unfinished benchmark, records of another benchmark or too many items, an unknown rule.
    """
    (scored,) = score_runs([run], partial=partial, rule=rule)
    return scored


def score_runs(
    runs: Iterable[str | Path], *, partial: bool = False, rule: str | None = None
) -> list[list[BenchmarkRun]]:
    """Score several runs as `score_run` does; `rule` may be of a benchmark that only one of them has.

    Raises:
        ValueError: as `score_run`, for any of the runs.
    """
    folders = [[(folder, RunInfo.read(folder)) for folder in benchmark_folders(run)] for run in runs]
    for parts in folders:
        for _, info in parts:
            load_benchmark_of(info)
    check_rule(rule)
    return [[_score_folder(folder, info, partial, rule) for folder, info in parts] for parts in folders]


def write_scores(scored: BenchmarkRun) -> None:
    """Write ``records.jsonl`` with the derived part, and ``metrics.json``, each atomically."""
    write_records(scored.folder, [*scored.records, *scored.further])
    text = json.dumps(scored.metrics, indent=2, allow_nan=False) + "\n"
    write_atomic(scored.folder / METRICS_FILE, text.encode())


def summarize(records: Sequence[Record], info: RunInfo, rule: str | None = None) -> dict[str, Any]:
    """Every number of a benchmark's scored records, as JSON values; accuracies and intervals are shares in [0, 1].

    Keys: the settings of the run; ``strict``, ``official`` and ``official_answer`` (each with correct, items, accuracy,
    interval, standard_error, and `clustered` by clip: clips, standard_error, interval); ``errors`` by type;
    ``reasons``; ``formatted`` (share of replies with the right tags, None for other formats); ``categories`` (each with
    the same three scores); ``answers`` and ``gold`` (counts of each letter); ``tokens``; ``own_scores`` (see
    `Benchmark.own_scores`; None for most benchmarks).
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
        "official": {"rule": rule_source(info.benchmark, rule), **official_score(records)},
        "official_answer": official_answer_score(records),
        "errors": _counts(
            (record.error_type for record in records), ("none", "instruction_format", "logic", "no_reply")
        ),
        "reasons": _counts(record.reason for record in records),
        "formatted": formatted if info.answer_format == "tags" else None,
        "categories": {
            name: {
                value: {
                    "strict": strict_score(part),
                    "official": official_score(part),
                    "official_answer": official_answer_score(part),
                }
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
        "own_scores": benchmark.own_scores(records) if benchmark and benchmark.own_scores else None,
    }


def strict_score(records: Sequence[Record]) -> dict[str, Any]:
    """The strict accuracy over all of the records, with its Wilson interval and standard errors."""
    return _item_score(records, "correct_strict")


def official_score(records: Sequence[Record]) -> dict[str, Any]:
    """The accuracy by the benchmark's own rule, over the items that this rule counts."""
    return _item_score([record for record in records if record.correct_official is not None], "correct_official")


def _item_score(records: Sequence[Record], name: str) -> dict[str, Any]:
    """`share_score` of a field of the records; ``standard_error`` by item, and ``clustered`` by clip.

    Clustered: number of `clips`, `standard_error` and `interval`, wider where the questions about one clip are alike.
    """
    outcomes = [bool(getattr(record, name)) for record in records]
    clips = [record.clip for record in records]
    return share_score(outcomes) | {
        "standard_error": standard_error(outcomes),
        "clustered": {
            "clips": len(set(clips)),
            "standard_error": standard_error(outcomes, clips),
            "interval": list(clustered_interval(outcomes, clips, CONFIDENCE)),
        },
    }


def official_answer_score(records: Sequence[Record]) -> dict[str, Any]:
    """The accuracy by the benchmark's own rule on the answers' text, over the items that this rule counts."""
    counted = [record for record in records if record.correct_official_answer is not None]
    return _item_score(counted, "correct_official_answer")


def _score_folder(folder: Path, info: RunInfo, partial: bool, rule: str | None) -> BenchmarkRun:
    records = read_all_records(folder)
    for record in records:
        if record.benchmark != info.benchmark:
            raise ValueError(
                f"{folder}: record {record.id!r} is of {record.benchmark!r}, but the run is of {info.benchmark!r}"
            )
    items = len({record.id for record in records})
    if items > info.items:
        raise ValueError(
            f"{folder}: has {items} items instead of {info.items}; two runs may be mixed "
            "here: keep each in its own folder"
        )
    finished = len(finished_items(records, expected_variants(info.decoding)))
    if finished < info.items and not partial:
        raise ValueError(
            f"{folder}: has {finished} of {info.items} items; resume the run, or pass --partial to score these"
        )
    scored = [grade_record(record.raw(), info.profile, rule) for record in records]
    first = first_replies(scored)
    metrics = (
        summarize(first, info, rule) | {"complete": finished == info.items} | further_scores(scored, info.decoding)
    )
    further = [record for record in scored if record.variant != FIRST]
    return BenchmarkRun(folder, info, first, metrics, further, rule)


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
