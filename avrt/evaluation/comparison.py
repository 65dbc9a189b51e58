"""Comparison of runs on the same items: accuracies, and each run's difference from the first one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from avrt.evaluation.benchmarks import BENCHMARKS
from avrt.evaluation.difficulty_subsets import DIFFICULTIES
from avrt.evaluation.published_results import (
    ANALYZED,
    AVERAGES,
    COLUMNS,
    average_of,
    averaged,
    published_analysis,
    published_table3,
)
from avrt.evaluation.records.record import Record
from avrt.evaluation.run_media import audio_of, frames_of
from avrt.evaluation.run_subsets import limit_run, read_subsets
from avrt.evaluation.scoring import BenchmarkRun, score_runs, share_score
from avrt.evaluation.statistics import (
    RESAMPLES,
    SEED,
    cluster_sums,
    holm,
    paired_bootstrap,
    percentile_interval,
    sign_flip_test,
)

Score = Literal["strict", "official", "official_answer"]
Run = dict[str, BenchmarkRun]
"""A run's benchmarks by column: the benchmark's name, or ``<benchmark>:<subset>``."""


def compare(
    *runs: str | Path,
    score: Score = "strict",
    partial: bool = False,
    subsets: Sequence[str | Path] = (),
    rule: str | None = None,
    names: Sequence[str] = (),
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> dict[str, Any]:
    """The numbers of ``python -m avrt compare`` as JSON values; shares in [0, 1], the published rows in percent.

    Accuracies and differences of a column have the same denominator: all items, or of unfinished runs the items that
    all of them have. An item that a benchmark's own rule leaves out of its count (no answer found, an item that failed)
    is wrong in the official scores, since runs leave out different items; the accuracy over the counted items alone is
    given beside it.

    Args:
        runs: run folders, one or more; differences are from the first one.
        score: ``strict``; ``official``: by the benchmarks' own rules; ``official_answer``: by these rules on the
            answer's text alone.
        partial: accept runs that are not finished; a benchmark is compared over the items of all runs that have it.
        subsets: lists of ids to which the runs are limited, see `read_subsets`; each is a column of its own.
        rule: see `avrt.evaluation.scoring.grade_record`.
        names: the runs' names in tables; by default those that the runs have.
        resamples, seed: of the bootstrap.

    Returns:
        ``score``; ``columns`` (per column: benchmark, subset, title, and the items that the authors state); ``runs``
        (per run: name, model, label, and by column accuracy, interval, errors, `recorded` (items that the run has),
        `frames` and `audio`, and for the official scores `counted` (the score over the items that the rule counts);
        averages); ``comparisons`` (of each further run with the first: differences, averages, `only_in_one`);
        ``published``, ``published_errors`` and ``published_source``.

    Raises:
        ValueError: no run, an unfinished one, or runs whose questions differ.
    """
    if names and len(names) != len(runs):
        raise ValueError(f"--names: give one name per run, {len(runs)}; got {len(names)}")
    if rule is not None and score == "strict":
        raise ValueError("--official-rule: belongs to --score official or official-answer")
    lists = read_subsets(subsets)
    scored = score_runs(runs, partial=partial or bool(lists), rule=rule)
    by_column = [by_benchmark(limit_run(run, lists, partial=partial) if lists else run) for run in scored]
    return compare_scored(by_column, score=score, partial=partial, names=names, resamples=resamples, seed=seed)


def compare_scored(
    runs: Sequence[Run],
    *,
    score: Score = "strict",
    partial: bool = False,
    names: Sequence[str] = (),
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> dict[str, Any]:
    """`compare` for runs that are scored already, each by column (see `by_benchmark`)."""
    columns = _in_order({column for run in runs for column in run})
    shared = {column: _shared_ids([run[column] for run in runs if column in run], partial) for column in columns}
    tests: list[dict[str, Any]] = []
    comparisons = []
    for number, run in enumerate(runs[1:], start=1):
        changes, draws = {}, {}
        for column in (column for column in columns if column in runs[0] and column in run):
            # Each column has its own seed: the items of two benchmarks are drawn independently.
            stream = seed + 1_000_003 * _in_order({*COLUMNS, *columns}).index(column)
            change, draws[column] = _difference(runs[0][column], run[column], shared[column], score, resamples, stream)
            changes[column] = change
        tests += changes.values()
        only = [column for column in columns if (column in runs[0]) != (column in run)]
        comparisons.append(
            {
                "run": number,
                "reference": 0,
                "differences": changes,
                "averages": _average_differences(changes, draws),
                "only_in_one": only,
            }
        )
    for test, p_value in zip(tests, holm([test["p_value"] for test in tests]), strict=True):
        test["p_holm"] = p_value
    rows = [_run_row(run, score, shared) for run in runs]
    for row, name in zip(rows, names or _labels(rows), strict=True):
        row["label"] = name
    return {
        "score": score,
        "columns": _describe({column: next(run[column] for run in runs if column in run) for column in columns}),
        "runs": rows,
        "comparisons": comparisons,
        **_published(columns),
    }


def _shared_ids(entries: Sequence[BenchmarkRun], partial: bool) -> list[str]:
    """The ids of the items that all runs have, in order.

    Raises:
        ValueError: the runs answered different questions, or do not have the same items and `partial` is off.
    """
    first = entries[0]
    name = first.info.benchmark
    known = {record.id: record for record in first.records}
    ids = list(known)
    for other in entries[1:]:
        theirs = {record.id: record for record in other.records}
        both = [item for item in ids if item in theirs]
        # Runs limited to a subset may be of different question sets: their questions are compared one by one.
        limited = first.limited and other.limited
        differing = [item for item in both if _question(known[item]) != _question(theirs[item])] if limited else []
        if differing or (not limited and first.info.dataset_fingerprint != other.info.dataset_fingerprint):
            raise ValueError(
                f"{name}: {first.folder} and {other.folder} answered different questions "
                f"({f'for instance {differing[0]!r}' if differing else '`dataset_fingerprint` differs'}: "
                "another version of the benchmark, or another subset); compare runs on the same questions, or limit "
                "both with --subset"
            )
        if not both:
            raise ValueError(f"{name}: {first.folder} and {other.folder} have no items in common to compare")
        if not partial and not len(both) == len(known) == len(theirs):
            raise ValueError(
                f"{name}: {first.folder} and {other.folder} do not have the same items; finish both, or pass --partial"
            )
        ids = both
    return ids


def _question(record: Record) -> tuple[object, ...]:
    return record.question, record.options, record.gold


def _average_differences(
    differences: Mapping[str, dict[str, Any]], draws: Mapping[str, NDArray[np.float64]]
) -> dict[str, dict[str, Any]]:
    """The differences of those averages of which all benchmarks were compared."""
    found = {}
    for average in AVERAGES:
        names = averaged(average)
        if all(name in draws for name in names):
            low, high = percentile_interval(np.mean([draws[name] for name in names], axis=0))
            mean = float(np.mean([differences[name]["difference"] for name in names]))
            found[average] = {"difference": mean, "interval": [low, high]}
    return found


def _difference(
    one: BenchmarkRun, two: BenchmarkRun, ids: Sequence[str], score: Score, resamples: int, seed: int
) -> tuple[dict[str, Any], NDArray[np.float64]]:
    before, after = outcomes(one.records, score), outcomes(two.records, score)
    a = np.array([before[item] for item in ids])
    b = np.array([after[item] for item in ids])
    clip_of = {record.id: record.clip for record in one.records}
    clips = [clip_of[item] for item in ids]
    draws = paired_bootstrap(a, b, clips, resamples=resamples, seed=seed)
    only_first, only_second = int((a & ~b).sum()), int((b & ~a).sum())
    changes = cluster_sums(b.astype(float) - a, clips)
    return {
        "items": len(ids),
        "clips": len(changes),
        "difference": (only_second - only_first) / len(ids),
        "interval": list(percentile_interval(draws)),
        "only_first": only_first,
        "only_second": only_second,
        "p_value": sign_flip_test(changes.astype(int).tolist()),
    }, draws


def outcomes(records: Sequence[Record], score: Score = "strict") -> dict[str, bool]:
    """Right or wrong by item id."""
    field = f"correct_{score}"
    return {record.id: bool(getattr(record, field)) for record in records}


def _run_row(run: Run, score: Score, shared: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    scores: dict[str, dict[str, Any]] = {}
    for column, entry in run.items():
        ids = set(shared[column])
        records = [record for record in entry.records if record.id in ids]
        results: list[bool | None] = [getattr(record, f"correct_{score}") for record in records]
        errors = [record.error_type for record in records]
        scores[column] = share_score(results) | {
            "recorded": len(entry.records),
            "errors": {
                kind: errors.count(kind) / len(errors) if errors else None
                for kind in ("instruction_format", "logic", "no_reply")
            },
            "frames": frames_of(entry),
            "audio": audio_of(entry),
        }
        if score != "strict":
            scores[column]["counted"] = share_score([result for result in results if result is not None])
    shares = {name: value["accuracy"] for name, value in scores.items() if value["accuracy"] is not None}
    some = next(iter(run.values())).info
    return {
        "run": some.run,
        "model": some.model,
        "modalities": sorted({entry.info.modalities for entry in run.values()}),
        "benchmarks": scores,
        **{name: average_of(shares, name) for name in AVERAGES},
    }


def _labels(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The runs' names with the models' where these say more, and with masks."""
    labels = []
    for row in rows:
        model = model_name(row["model"])
        labels.append(row["run"] + (f" ({model})" if model not in row["run"] else "") + masks_of(row))
    return labels


def model_name(model: str) -> str:
    """A model's short name: the last part of a hub id or path; of a checkpoint, the last two."""
    parts = [part for part in model.split("/") if part]
    return "/".join(parts[-2 if model.endswith(".ckpt") else -1 :]) or model


def masks_of(row: Mapping[str, Any]) -> str:
    """A suffix for the name of a run of `compare` with masked streams, such as `` [A]``; empty without a mask."""
    return "" if row["modalities"] == ["AV"] else f" [{'/'.join(row['modalities'])}]"


def _describe(entries: Run) -> dict[str, dict[str, Any]]:
    """What each column is; see `compare`."""
    alone = len(entries) > 1 and len({entry.info.benchmark for entry in entries.values()}) == 1
    found = {}
    for column, entry in entries.items():
        benchmark, subset = entry.info.benchmark, entry.info.subset if entry.limited else None
        known = BENCHMARKS.get(benchmark)
        title = COLUMNS.get(benchmark) or (known.title if known else benchmark)
        items = known.items if known else None
        if subset is not None:
            title = subset if alone else f"{title} {subset}"
            items = published_analysis().items.get(subset) if benchmark == ANALYZED else None
        found[column] = {"benchmark": benchmark, "subset": subset, "title": title, "published_items": items or None}
    return found


def _published(columns: Sequence[str]) -> dict[str, Any]:
    """The paper's rows: Table 3, and for OmniBench its Tables 8 and 9."""
    rows, source = published_table3()
    analysis = published_analysis()
    listed = []
    for row in rows:
        parts = {f"{ANALYZED}:{name}": value for name, value in analysis.accuracy.get(row.label, {}).items()}
        averages = {name: getattr(row, name) for name in AVERAGES}
        listed.append({"label": row.label, "group": row.group, "scores": row.scores | parts, **averages})
    further = any(column.partition(":")[0] == ANALYZED for column in columns)
    return {
        "published": listed,
        "published_errors": analysis.errors if ANALYZED in columns else {},
        "published_source": source + ("; Tables 8 and 9" if further else ""),
    }


def by_benchmark(scored: Sequence[BenchmarkRun]) -> Run:
    """A run's benchmarks by column, in Table 3's order, others after them.

    Raises:
        ValueError: two folders of the same benchmark.
    """
    by_name: Run = {}
    for entry in scored:
        name = entry.column
        if name in by_name:
            raise ValueError(f"{entry.folder} and {by_name[name].folder} are both of {name}; keep one run per folder")
        by_name[name] = entry
    return {name: by_name[name] for name in _in_order(by_name)}


def _in_order(columns: Iterable[str]) -> list[str]:
    """Columns in Table 3's order, others after them by name; subsets from easy to hard, then by name."""
    known = list(COLUMNS)

    def place(column: str) -> tuple[int, str, int]:
        name, _, subset = column.partition(":")
        hardness = DIFFICULTIES.index(subset) if subset in DIFFICULTIES else len(DIFFICULTIES)
        return known.index(name) if name in known else len(known), name, hardness

    return sorted(sorted(columns), key=place)
