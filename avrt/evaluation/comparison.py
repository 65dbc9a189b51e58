"""Two runs on the same items: differences, intervals and tests, benchmark by benchmark and on average."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

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
from avrt.evaluation.tables import AVERAGES, COLUMNS, average_of, averaged, published_table3

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
    """What ``python -m avrt compare`` prints, as JSON values; shares in [0, 1], the published rows in percent.

    Accuracies and differences have one denominator: all items, and of two runs the items that both have. An item that
    a benchmark's own rule leaves out of its count (no answer found, an item that failed) is wrong in the official
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
        ``averages`` (difference and interval), ``only_in_one`` (benchmarks left out), ``published`` and
        ``published_source``.

    Raises:
        ValueError: no run, an unfinished one, or runs whose questions differ.
    """
    runs = [_by_benchmark(score_run(path, partial=partial)) for path in (first, second) if path is not None]
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
        result["only_in_one"] = [name for name in _order({*one, *two}) if name not in one or name not in two]
        both = [name for name in _order({*one, *two}) if name in one and name in two]
        draws: dict[str, NDArray[np.float64]] = {}
        for name in both:
            # A seed of its own for each benchmark: their items are drawn independently.
            stream = seed + 1_000_003 * list(_order({*COLUMNS, *both})).index(name)
            result["differences"][name], draws[name] = _difference(
                one[name], two[name], score, partial, resamples, stream
            )
        adjusted = holm([result["differences"][name]["p_value"] for name in both])
        for name, p_value in zip(both, adjusted, strict=True):
            result["differences"][name]["p_holm"] = p_value
        for average in AVERAGES:
            names = averaged(average)
            if all(name in draws for name in names):
                low, high = percentile_interval(np.mean([draws[name] for name in names], axis=0))
                mean = float(np.mean([result["differences"][name]["difference"] for name in names]))
                result["averages"][average] = {"difference": mean, "interval": [low, high]}
    return result


def masks_of(row: dict[str, Any]) -> str:
    """What to write behind the name of a run of `compare` that was shown less than both streams: `` [A]``."""
    return "" if row["modalities"] == ["AV"] else f" [{'/'.join(row['modalities'])}]"


def outcomes(records: Sequence[Record], score: Score = "strict") -> dict[str, bool]:
    """Right or wrong by item id."""
    field = f"correct_{score}"
    return {record.id: bool(getattr(record, field)) for record in records}


def flips(first: Sequence[Record], second: Sequence[Record]) -> tuple[list[str], list[str]]:
    """Ids of the items that the second run wins and loses against the first, in the first's order."""
    before, after = outcomes(first), outcomes(second)
    shared = [item for item in before if item in after]
    won = [item for item in shared if after[item] and not before[item]]
    lost = [item for item in shared if before[item] and not after[item]]
    return won, lost


def _difference(
    one: BenchmarkRun, two: BenchmarkRun, score: Score, partial: bool, resamples: int, seed: int
) -> tuple[dict[str, Any], NDArray[np.float64]]:
    name = one.info.benchmark
    if one.info.dataset_fingerprint != two.info.dataset_fingerprint:
        raise ValueError(
            f"{name}: {one.folder} and {two.folder} answered different questions (`dataset_fingerprint` differs: "
            "another version of the benchmark, or another subset); they cannot be compared item by item"
        )
    before, after = outcomes(one.records, score), outcomes(two.records, score)
    ids = [item for item in before if item in after]
    if not ids:
        raise ValueError(f"{name}: {one.folder} and {two.folder} have no items in common; nothing can be compared")
    if not partial and not len(ids) == len(before) == len(after):
        raise ValueError(f"{name}: {one.folder} and {two.folder} do not have the same items")
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


def _by_benchmark(scored: list[BenchmarkRun]) -> dict[str, BenchmarkRun]:
    by_name: dict[str, BenchmarkRun] = {}
    for entry in scored:
        if entry.info.benchmark in by_name:
            raise ValueError(
                f"{entry.folder} and {by_name[entry.info.benchmark].folder} are both of {entry.info.benchmark}; "
                "keep one run per folder"
            )
        by_name[entry.info.benchmark] = entry
    return {name: by_name[name] for name in _order(by_name)}


def _order(names: Any) -> list[str]:
    """Benchmarks in Table 3's order, others after them by name."""
    known = list(COLUMNS)
    return sorted(names, key=lambda name: (known.index(name) if name in known else len(known), name))
