"""The report's tables of numbers beside the scores: errors by clip, several replies per item, thinking budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from avrt.evaluation.further_tables import clustered_line, own_score_lines
from avrt.evaluation.number_format import ABSENT, interval, percent
from avrt.evaluation.repeats import REPEATS, THINKING_CURVE
from avrt.evaluation.report.run_labels import badge, title_of
from avrt.evaluation.scoring import BenchmarkRun
from avrt.pages.tables import escape, number_cell, number_heads, section, table, text_heads


def further_numbers(runs: Sequence[Mapping[str, BenchmarkRun]]) -> str:
    """What the runs have of these tables, as sections of the page."""
    return _own_scores(runs) + _repeats(runs) + _curves(runs)


def _own_scores(runs: Sequence[Mapping[str, BenchmarkRun]]) -> str:
    rows = []
    for name, number, metrics in _metrics(runs):
        for line in (clustered_line(metrics["strict"]), *own_score_lines(metrics)):
            if line:
                rows.append([*_names(name, number), f"<td>{escape(line)}</td>"])
    note = "Several questions about one clip are not independent: the error by clip is the one to report."
    title = "Errors by clip, and the benchmarks' own scores"
    return section("own", title, table(_heads("Numbers"), rows), note) if rows else ""


def _repeats(runs: Sequence[Mapping[str, BenchmarkRun]]) -> str:
    found = [(name, number, metrics[REPEATS]) for name, number, metrics in _metrics(runs) if metrics.get(REPEATS)]
    found = [entry for entry in found if entry[2]["items"]]
    if not found:
        return ""
    tries = sorted({int(k) for _, _, numbers in found for k in numbers["pass_at"]})
    rows = [
        [
            *_names(name, number),
            number_cell(str(numbers["replies"])),
            number_cell(percent(numbers["mean"]["accuracy"])),
            *(number_cell(_points(numbers["mean"][kind])) for kind in ("standard_error", "clustered_error")),
            *(number_cell(percent(numbers["pass_at"].get(str(k)))) for k in tries),
            number_cell(percent(numbers["majority"]["accuracy"])),
            number_cell(interval(numbers["majority"]["interval"])),
        ]
        for name, number, numbers in found
    ]
    passes = (f"pass@{k}" for k in tries)
    heads = _heads() + number_heads("Replies", "Mean", "± by item", "± by clip", *passes, "Majority", "95 % interval")
    return section("repeats", "Several replies per item, strict (%)", table(heads, rows))


def _curves(runs: Sequence[Mapping[str, BenchmarkRun]]) -> str:
    rows = [
        [
            *_names(name, number),
            number_cell("no limit" if point["budget"] is None else f"{point['budget']:,}"),
            number_cell(percent(point["accuracy"])),
            *(number_cell(_points(point[kind])) for kind in ("standard_error", "clustered_error")),
            number_cell(ABSENT if point["completion_mean"] is None else f"{point['completion_mean']:.1f}"),
        ]
        for name, number, metrics in _metrics(runs)
        for point in metrics.get(THINKING_CURVE) or []
    ]
    heads = _heads() + number_heads("Thinking tokens", "Accuracy", "± by item", "± by clip", "Tokens of a reply")
    return section("curve", "Accuracy by thinking budget, strict (%)", table(heads, rows)) if rows else ""


def _metrics(runs: Sequence[Mapping[str, BenchmarkRun]]) -> list[tuple[str, int, dict[str, Any]]]:
    names = dict.fromkeys(name for run in runs for name in run)
    return [(name, number, run[name].metrics) for name in names for number, run in enumerate(runs) if name in run]


def _heads(*more: str) -> list[str]:
    return text_heads("Benchmark", "Run", *more)


def _names(benchmark: str, number: int) -> list[str]:
    return [f"<td>{escape(title_of(benchmark))}</td>", f"<td>{badge(number)}</td>"]


def _points(error: float | None) -> str:
    return ABSENT if error is None else f"{100 * error:.2f}"
