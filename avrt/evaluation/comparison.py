"""Comparison of two runs on the same items: differences, intervals and tests, per benchmark and on average."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from avrt.evaluation.published_results import AVERAGES, COLUMNS, average_of, averaged, published_table3
from avrt.evaluation.records.record import Record
from avrt.evaluation.scoring import BenchmarkRun, official_score, score_run, share_score
from avrt.evaluation.statistics import (
    RESAMPLES,
    SEED,
    holm,
    mcnemar_exact,
    paired_bootstrap,
    percentile_interval,
)

Score = Literal["strict", "official"]


def compare(
    first: str | Path,
    second: str | Path | None = None,
    *,
    score: Score = "strict",
    partial: bool = False,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> dict[str, Any]:
    """The numbers of ``python -m avrt compare`` as JSON values; shares in [0, 1], the published rows in percent.

    Accuracies and differences have the same denominator: all items, and for two runs the items that both have. An item
    that a benchmark's own rule leaves out of its count (no answer found, an item that failed) is wrong in the official
    score, since two runs leave out different items; the accuracy over the counted items alone is given beside it.

    Args:
        first, second: run folders; differences are second minus first. Without a second, only the first is listed.
        score: ``strict``, or ``official``: by the benchmarks' own rules.
        partial: accept runs that are not finished; a benchmark that both have is compared over the items of both.
        resamples, seed: of the bootstrap.

    Returns:
        ``runs`` (per run: name, model, benchmarks with accuracy, interval, `recorded` (items that the run has) and,
        for the official score, `counted` (the score over the items that the rule counts); averages), ``differences``
        (per benchmark that both have: difference, interval, p_value, p_holm, only_first, only_second, items),
        ``averages`` (difference and interval), ``only_in_one`` (benchmarks that are not compared), ``published`` and
        ``published_source``.

    Raises:
        ValueError: no run, an unfinished one, or runs whose questions differ.
    """
    runs = [by_benchmark(score_run(path, partial=partial)) for path in (first, second) if path is not None]
    rows, source = published_table3()
    result: dict[str, Any] = {
        "score": score,
        "runs": [_run_row(run, score, [other for other in runs if other is not run]) for run in runs],
        "differences": {},
        "averages": {},
        "only_in_one": [],
        "published": [
            {"label": row.label, "group": row.group, "scores": row.scores}
            | {name: getattr(row, name) for name in AVERAGES}
            for row in rows
        ],
        "published_source": source,
    }
    if len(runs) == 2:
        one, two = runs
        names = _in_order({*one, *two})
        result["only_in_one"] = [name for name in names if name not in one or name not in two]
        shared = [(one[name], two[name]) for name in names if name in one and name in two]
        result["differences"], draws = _differences(shared, score, partial, resamples, seed)
        result["averages"] = _average_differences(result["differences"], draws)
    return result


def _differences(
    pairs: Sequence[tuple[BenchmarkRun, BenchmarkRun]], score: Score, partial: bool, resamples: int, seed: int
) -> tuple[dict[str, dict[str, Any]], dict[str, NDArray[np.float64]]]:
    """The differences of two runs by benchmark, and their bootstrap distributions."""
    places = _in_order({*COLUMNS, *(one.info.benchmark for one, _ in pairs)})
    found: dict[str, dict[str, Any]] = {}
    draws: dict[str, NDArray[np.float64]] = {}
    for one, two in pairs:
        name = one.info.benchmark
        # Each benchmark has its own seed: their items are drawn independently.
        stream = seed + 1_000_003 * places.index(name)
        found[name], draws[name] = _difference(one, two, score, partial, resamples, stream)
    for change, p_value in zip(found.values(), holm([change["p_value"] for change in found.values()]), strict=True):
        change["p_holm"] = p_value
    return found, draws


def _average_differences(
    differences: dict[str, dict[str, Any]], draws: dict[str, NDArray[np.float64]]
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


def masks_of(row: Mapping[str, Any]) -> str:
    """A suffix for the name of a run of `compare` with masked streams, such as `` [A]``; empty without a mask."""
    return "" if row["modalities"] == ["AV"] else f" [{'/'.join(row['modalities'])}]"


def outcomes(records: Sequence[Record], score: Score = "strict") -> dict[str, bool]:
    """Right or wrong by item id."""
    field = f"correct_{score}"
    return {record.id: bool(getattr(record, field)) for record in records}


def _difference(
    one: BenchmarkRun, two: BenchmarkRun, score: Score, partial: bool, resamples: int, seed: int
) -> tuple[dict[str, Any], NDArray[np.float64]]:
    name = one.info.benchmark
    if one.info.dataset_fingerprint != two.info.dataset_fingerprint:
        raise ValueError(
            f"{name}: {one.folder} and {two.folder} answered different questions (`dataset_fingerprint` differs: "
            "another version of the benchmark, or another subset); compare runs on the same questions"
        )
    before, after = outcomes(one.records, score), outcomes(two.records, score)
    ids = [item for item in before if item in after]
    if not ids:
        raise ValueError(f"{name}: {one.folder} and {two.folder} have no items in common to compare")
    if not partial and not len(ids) == len(before) == len(after):
        raise ValueError(
            f"{name}: {one.folder} and {two.folder} do not have the same items; finish both, or pass --partial"
        )
    a = np.array([before[item] for item in ids])
    b = np.array([after[item] for item in ids])
    draws = paired_bootstrap(a, b, resamples=resamples, seed=seed)
    only_first, only_second = int((a & ~b).sum()), int((b & ~a).sum())
    return {
        "items": len(ids),
        "difference": (only_second - only_first) / len(ids),
        "interval": list(percentile_interval(draws)),
        "only_first": only_first,
        "only_second": only_second,
        "p_value": mcnemar_exact(only_first, only_second),
    }, draws


def _run_row(run: dict[str, BenchmarkRun], score: Score, others: Sequence[dict[str, BenchmarkRun]]) -> dict[str, Any]:
    scores = {}
    for name, entry in run.items():
        shared = [{record.id for record in other[name].records} for other in others if name in other]
        records = [record for record in entry.records if all(record.id in ids for ids in shared)]
        scores[name] = share_score(list(outcomes(records, score).values())) | {"recorded": len(entry.records)}
        if score == "official":
            scores[name]["counted"] = official_score(records)
    shares = {name: value["accuracy"] for name, value in scores.items() if value["accuracy"] is not None}
    some = next(iter(run.values())).info
    return {
        "run": some.run,
        "model": some.model,
        "modalities": sorted({entry.info.modalities for entry in run.values()}),
        "benchmarks": scores,
        **{name: average_of(shares, name) for name in AVERAGES},
    }


def by_benchmark(scored: Sequence[BenchmarkRun]) -> dict[str, BenchmarkRun]:
    """A run's benchmarks by name, in Table 3's order, others after them.

    Raises:
        ValueError: two folders of the same benchmark.
    """
    by_name: dict[str, BenchmarkRun] = {}
    for entry in scored:
        name = entry.info.benchmark
        if name in by_name:
            raise ValueError(f"{entry.folder} and {by_name[name].folder} are both of {name}; keep one run per folder")
        by_name[name] = entry
    return {name: by_name[name] for name in _in_order(by_name)}


def _in_order(names: Iterable[str]) -> list[str]:
    """Benchmarks in Table 3's order, others after them by name."""
    known = list(COLUMNS)
    return sorted(names, key=lambda name: (known.index(name) if name in known else len(known), name))
