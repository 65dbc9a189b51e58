"""The numbers of the tables, from finished evaluations.

A cell is the mean over the seeds of training. Its interval and the tests are over clips: the questions about a clip,
and the replies of all seeds to them, are one cluster. They say how far other questions could change the number, not how
far other seeds could; the seeds' own numbers are beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from avrt.evaluation.records.record import Record
from avrt.evaluation.run_subsets import read_subsets
from avrt.evaluation.scoring import BenchmarkRun, score_run
from avrt.evaluation.statistics import (
    cluster_sums,
    clustered_interval,
    holm,
    paired_bootstrap,
    percentile_interval,
    sign_flip_test,
)
from avrt.experiments.claims import Claims, claims_of, is_judged
from avrt.experiments.columns import Column, table_columns
from avrt.experiments.plan import ExperimentPlan
from avrt.experiments.specs import Table
from avrt.experiments.state import is_complete


@dataclass(frozen=True)
class Difference:
    """A cell's difference from the same column of the reference arm.

    Attributes:
        value: this arm's share minus the reference's, in [-1, 1].
        interval: 95 %, bootstrap over clips.
        p_value: exact sign-flip test by clip.
        p_holm: the same, corrected for all comparisons of the table.
    """

    value: float
    interval: tuple[float, float]
    p_value: float
    p_holm: float = 1.0


@dataclass(frozen=True)
class Cell:
    """One number.

    Attributes:
        share: mean over seeds, in [0, 1].
        interval: 95 %, by clip.
        by_seed: each seed's share.
        items: items of each seed.
        difference: from the reference arm; None for that arm itself.
    """

    share: float
    interval: tuple[float, float]
    by_seed: tuple[float, ...]
    items: int
    difference: Difference | None = None


@dataclass(frozen=True)
class RowResult:
    """A row: a cell for each column, None where an evaluation is missing."""

    arm: str
    title: str
    cells: tuple[Cell | None, ...]
    paper: tuple[float | None, ...]
    missing: str = ""


@dataclass(frozen=True)
class TableResult:
    """A filled table."""

    name: str
    title: str
    kind: str
    columns: tuple[str, ...]
    paper_columns: tuple[str, ...]
    reference: str
    rows: tuple[RowResult, ...]
    note: str

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


Runs = Mapping[tuple[str, int, str], Mapping[str, BenchmarkRun]]
"""Finished evaluations: (arm, seed, modalities) to benchmark to run."""


def read_runs(plan: ExperimentPlan) -> dict[tuple[str, int, str], dict[str, BenchmarkRun]]:
    """The finished evaluations of an experiment; one that several arms share is read once."""
    read: dict[Path, dict[str, BenchmarkRun]] = {}
    found = {}
    for evaluation in plan.expansion.evaluations:
        stage = plan.stages[evaluation.stage]
        if is_complete(stage):
            if stage.folder not in read:
                read[stage.folder] = {run.column: run for run in score_run(stage.folder / "run")}
            found[evaluation.arm, evaluation.seed, evaluation.modalities] = read[stage.folder]
    return found


def fill_tables(plan: ExperimentPlan, runs: Runs) -> list[TableResult]:
    """The tables of an experiment with everything that is finished.

    Raises:
        ValueError: two evaluations are of different questions, or the base's rule for claims is wrong.
    """
    claims = claims_of(plan)
    lists = plan.folder / "difficulty" / "lists"
    subsets = read_subsets([lists]) if any(lists.glob("*.txt")) else {}
    return [_fill(name, table, plan, runs, subsets, claims) for name, table in plan.tables.items()]


def _fill(
    name: str,
    table: Table,
    plan: ExperimentPlan,
    runs: Runs,
    subsets: dict[str, list[str]],
    claims: Claims | None,
) -> TableResult:
    benchmarks = list(dict.fromkeys(benchmark for found in runs.values() for benchmark in found))

    if table.kind == "claims":
        judged = {(e.arm, e.seed, e.modalities) for e in plan.expansion.evaluations if is_judged(plan, e)}
        runs = {key: run for key, run in runs.items() if key in judged}

    def records(benchmark: str, modalities: str) -> list[Record]:
        return [
            record
            for (arm, _, streams), found in runs.items()
            if arm in table.arms and streams == modalities and benchmark in found
            for record in found[benchmark].records
        ]

    columns = table_columns(table, benchmarks, subsets=subsets, claims=claims, records=records)
    outcomes = {
        (arm, number): _outcomes(arm, column, plan.seeds, runs)
        for arm in table.arms
        for number, column in enumerate(columns)
    }
    rows: list[list[Cell | None]] = []
    for row in table.rows:
        reference = None if row.arm == table.compared_with else table.compared_with
        rows.append(
            [
                _cell(outcomes[row.arm, number], outcomes.get((reference or "", number)))
                for number in range(len(columns))
            ]
        )
    _correct(rows)
    return TableResult(
        name=name,
        title=table.title,
        kind=table.kind,
        columns=tuple(column.title for column in columns),
        paper_columns=tuple(table.paper_columns),
        reference=table.compared_with,
        rows=tuple(
            RowResult(row.arm, plan.arms[row.arm].title, tuple(cells), tuple(row.paper), _missing(row.arm, plan, runs))
            for row, cells in zip(table.rows, rows, strict=True)
        ),
        note=" ".join([table.note, *_not_judged(columns)]).strip(),
    )


def _not_judged(columns: Sequence[Column]) -> list[str]:
    """A sentence for each column that leaves items out."""
    return [
        f"{column.title}: without {len(column.without)} items on which the judge gave no verdict."
        for column in columns
        if column.without
    ]


@dataclass(frozen=True)
class _Outcomes:
    """What a column counts, by seed: ``[seeds, items]``, and the items' ids and clips."""

    counted: np.ndarray[Any, np.dtype[np.bool_]]
    ids: tuple[str, ...]
    clips: tuple[str, ...]


def _outcomes(arm: str, column: Column, seeds: Sequence[int], runs: Runs) -> _Outcomes | None:
    """None if one of the seeds is not finished."""
    by_seed = []
    ids: tuple[str, ...] = ()
    clips: tuple[str, ...] = ()
    for seed in seeds:
        run = runs.get((arm, seed, column.modalities), {}).get(column.benchmark)
        if run is None:
            return None
        records = [r for r in run.records if column.has(r.id)]
        if not records:
            return None
        these = tuple(record.id for record in records)
        if ids and these != ids:
            raise ValueError(f"{run.folder}: has other items than the other seeds; delete it and evaluate again")
        ids, clips = these, tuple(record.clip for record in records)
        by_seed.append([column.counts(record) for record in records])
    return _Outcomes(np.array(by_seed, dtype=bool), ids, clips)


def _cell(own: _Outcomes | None, reference: _Outcomes | None) -> Cell | None:
    if own is None:
        return None
    seeds = len(own.counted)
    return Cell(
        share=float(own.counted.mean()),
        interval=clustered_interval(own.counted.ravel(), own.clips * seeds),
        by_seed=tuple(float(share) for share in own.counted.mean(axis=1)),
        items=len(own.ids),
        difference=None if reference is None else _difference(reference, own),
    )


def _difference(before: _Outcomes, after: _Outcomes) -> Difference:
    if before.ids != after.ids or before.counted.shape != after.counted.shape:
        raise ValueError("two arms were evaluated on different items; delete their evaluations and repeat them")
    a, b = before.counted.ravel(), after.counted.ravel()
    clips = after.clips * len(after.counted)
    changes = cluster_sums(b.astype(float) - a, clips)
    return Difference(
        value=float(b.mean() - a.mean()),
        interval=percentile_interval(paired_bootstrap(a, b, clips)),
        p_value=sign_flip_test(changes.astype(int).tolist()),
    )


def _correct(rows: list[list[Cell | None]]) -> None:
    """Holm's correction over all comparisons of a table, in place."""
    places = [
        (row, number, cell, cell.difference)
        for row in rows
        for number, cell in enumerate(row)
        if cell is not None and cell.difference is not None
    ]
    for (row, number, cell, change), corrected in zip(
        places, holm([change.p_value for *_, change in places]), strict=True
    ):
        row[number] = replace(cell, difference=replace(change, p_holm=corrected))


def _missing(arm: str, plan: ExperimentPlan, runs: Runs) -> str:
    """Why a row has no numbers yet."""
    if arm in plan.expansion.left_out:
        return plan.expansion.left_out[arm]
    wanted = [(e.seed, e.modalities) for e in plan.expansion.evaluations if e.arm == arm]
    open_ones = [f"seed {seed} {modalities}" for seed, modalities in wanted if (arm, seed, modalities) not in runs]
    return f"not finished: {', '.join(open_ones)}" if open_ones else ""
