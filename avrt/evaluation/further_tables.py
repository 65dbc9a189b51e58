"""Numbers beside the table of scores: errors by clip, several replies per item, the curve of thinking budgets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from avrt.evaluation.number_format import interval, percent
from avrt.evaluation.repeats import REPEATS, THINKING_CURVE
from avrt.evaluation.scoring import BenchmarkRun


def print_further_scores(scored: Sequence[BenchmarkRun], console: Console) -> None:
    """Print what the runs have of it; nothing for a run of one reply to independent items."""
    for entry in scored:
        line = clustered_line(entry.metrics["strict"])
        for text in [line, *own_score_lines(entry.metrics)]:
            if text:
                console.print(f"{entry.info.benchmark}: {text}", highlight=False, soft_wrap=True, markup=False)
    for table in (repeats_table(scored), curve_table(scored)):
        if table is not None:
            console.print(table)


def clustered_line(score: dict[str, Any]) -> str:
    """Standard errors by item and by clip, where several items are about one clip; else empty."""
    clustered = score["clustered"]
    if clustered["clips"] >= score["items"] or clustered["standard_error"] is None:
        return ""
    return (
        f"{score['items']:,} items about {clustered['clips']:,} clips: standard error "
        f"{100 * score['standard_error']:.2f} points by item, {100 * clustered['standard_error']:.2f} by clip "
        f"(95 % interval {interval(clustered['interval'])})"
    )


def own_score_lines(metrics: dict[str, Any]) -> list[str]:
    """The scores that a benchmark has of its own (`Benchmark.own_scores`), a line for each part of them."""
    return [
        f"{part}: " + ", ".join(f"{name.replace('_', ' ')} {percent(value)}" for name, value in values.items())
        for part, values in (metrics["own_scores"] or {}).items()
        if isinstance(values, dict)
    ]


def repeats_table(scored: Sequence[BenchmarkRun]) -> Table | None:
    """Mean, pass@k and majority vote of the runs that sampled several replies; None if there is none."""
    runs = [entry for entry in scored if entry.metrics.get(REPEATS, {}).get("items")]
    if not runs:
        return None
    tries = sorted({int(k) for entry in runs for k in entry.metrics[REPEATS]["pass_at"]})
    table = Table(title="several replies per item, strict, in percent", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("benchmark", overflow="fold")
    for head in ("replies", "mean", "± by item", "± by clip", *(f"pass@{k}" for k in tries), "majority"):
        table.add_column(head, justify="right", overflow="fold")
    for entry in runs:
        numbers = entry.metrics[REPEATS]
        table.add_row(
            entry.info.benchmark,
            str(numbers["replies"]),
            percent(numbers["mean"]["accuracy"]),
            _points(numbers["mean"]["standard_error"]),
            _points(numbers["mean"]["clustered_error"]),
            *(percent(numbers["pass_at"].get(str(k))) for k in tries),
            percent(numbers["majority"]["accuracy"]),
        )
    return table


def curve_table(scored: Sequence[BenchmarkRun]) -> Table | None:
    """Accuracy by thinking budget of the runs that measured it; None if there is none."""
    runs = [entry for entry in scored if entry.metrics.get(THINKING_CURVE)]
    if not runs:
        return None
    table = Table(title="accuracy by thinking budget, strict, in percent", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("benchmark", overflow="fold")
    for head in ("thinking tokens", "accuracy", "± by item", "± by clip", "tokens of a reply"):
        table.add_column(head, justify="right", overflow="fold")
    for entry in runs:
        for point in entry.metrics[THINKING_CURVE]:
            mean = point["completion_mean"]
            table.add_row(
                entry.info.benchmark,
                "no limit" if point["budget"] is None else f"{point['budget']:,}",
                percent(point["accuracy"]),
                _points(point["standard_error"]),
                _points(point["clustered_error"]),
                "-" if mean is None else f"{mean:.1f}",
            )
    return table


def _points(error: float | None) -> str:
    return "-" if error is None else f"{100 * error:.2f}"
