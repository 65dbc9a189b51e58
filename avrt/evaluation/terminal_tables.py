"""A run's numbers, and those of two compared runs, as tables on the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from avrt.evaluation.comparison import masks_of
from avrt.evaluation.further_tables import print_further_scores
from avrt.evaluation.number_format import interval, p_value, percent, signed
from avrt.evaluation.published_results import AVERAGES, COLUMNS, averaged
from avrt.evaluation.records.log import RECORDS_FILE
from avrt.evaluation.scoring import BenchmarkRun

PIPE_WIDTH = 120
"""A pipe or a log has no width: long lines are better than broken numbers."""
COMPARISON_WIDTH = 200


def score_console() -> Console:
    """Standard output, wide enough for a table of scores."""
    console = Console()
    return console if console.is_terminal else Console(width=PIPE_WIDTH)


def print_scores(scored: Sequence[BenchmarkRun], console: Console) -> None:
    """One line per benchmark: strict and official accuracy, and counts of errors."""
    title = f"{escape(scored[0].info.run)}: accuracy in percent, errors in items"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("benchmark", overflow="fold")
    for head in ("items", "strict", "95 % interval", "official", "of", "format errors", "logic errors", "no reply"):
        table.add_column(head, justify="right", overflow="fold")
    for entry in scored:
        strict, official, errors = (entry.metrics[name] for name in ("strict", "official", "errors"))
        table.add_row(
            entry.info.benchmark,
            str(strict["items"]),
            percent(strict["accuracy"]),
            interval(strict["interval"]),
            percent(official["accuracy"]),
            str(official["items"]),
            *(str(errors[name]) for name in ("instruction_format", "logic", "no_reply")),
        )
    console.print(table)
    print_further_scores(scored, console)
    for entry in scored:
        failures = Counter(record.failure for record in entry.records if record.failure is not None)
        if failures:
            counts = ", ".join(f"{count} {name}" for name, count in sorted(failures.items()))
            _print_line(
                console,
                f"{entry.info.benchmark}: no reply, counted as wrong: {counts} (each with its `failure_detail` in "
                f"{entry.folder / RECORDS_FILE})",
            )


def print_comparison(result: Mapping[str, Any]) -> None:
    """The result of `avrt.evaluation.comparison.compare` in the form of the paper's Table 3."""
    console = Console()
    if not console.is_terminal or console.width < PIPE_WIDTH:
        console = Console(width=COMPARISON_WIDTH)
    console.print(_comparison_table(result))
    for note in _notes(result):
        console.print(note, style="dim", highlight=False)
    for name, change in result["differences"].items():
        recorded = [row["benchmarks"][name]["recorded"] for row in result["runs"]]
        if recorded != [change["items"]] * 2:
            _print_line(
                console,
                f"{name}: accuracies and difference are over the {change['items']} items that both runs have; the "
                f"runs have {recorded[0]} and {recorded[1]}",
            )
    if result["only_in_one"]:
        _print_line(console, f"Only in one of the runs, not compared: {', '.join(result['only_in_one'])}")


def _comparison_table(result: Mapping[str, Any]) -> Table:
    others = {name for row in result["runs"] for name in row["benchmarks"]} - set(COLUMNS)
    heads = COLUMNS | {name: name for name in sorted(others)}
    audio = averaged("audio_average")
    columns = [name for name in heads if name not in audio] + ["av_average", *audio, "audio_average"]
    title = f"accuracy in percent ({result['score']} score)"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 0, 0, 1))
    labels = [row["group"] for row in result["published"]] + ["  " + row["label"] for row in result["published"]]
    table.add_column("model", overflow="fold", min_width=max(map(len, labels)))
    for name in columns:
        table.add_column((heads | AVERAGES)[name], justify="right", overflow="fold")
    for row in result["runs"]:
        _add_run(table, row, columns)
    if len(result["runs"]) == 2:
        _add_differences(table, result["differences"] | result["averages"], columns)
    _add_published(table, result["published"], columns)
    return table


def _add_run(table: Table, row: Mapping[str, Any], columns: Sequence[str]) -> None:
    scores = row["benchmarks"]
    accuracies = {name: score["accuracy"] for name, score in scores.items()} | {name: row[name] for name in AVERAGES}
    intervals = {name: interval(score["interval"]) for name, score in scores.items() if score["items"]}
    items = {name: f"{score['items']:,}" for name, score in scores.items()}
    counted = {
        name: f"{percent(score['counted']['accuracy'])} of {score['counted']['items']:,}"
        for name, score in scores.items()
        if "counted" in score and score["counted"]["items"] < score["items"]
    }
    label = escape(row["run"] + masks_of(row))
    table.add_row(label, *(percent(accuracies.get(name)) for name in columns), style="bold")
    table.add_row("  95 % interval", *(intervals.get(name, "") for name in columns), style="dim")
    table.add_row("  items", *(items.get(name, "") for name in columns), style="dim")
    if counted:
        table.add_row("  counted by the rule", *(counted.get(name, "") for name in columns), style="dim")


def _add_differences(table: Table, changes: Mapping[str, Any], columns: Sequence[str]) -> None:
    differences = {name: signed(change["difference"]) for name, change in changes.items()}
    intervals = {name: interval(change["interval"], signed) for name, change in changes.items()}
    p_values = {name: _starred(change["p_holm"]) for name, change in changes.items() if "p_holm" in change}
    table.add_section()
    table.add_row("difference", *(differences.get(name, "") for name in columns), style="bold")
    table.add_row("  95 % interval", *(intervals.get(name, "") for name in columns), style="dim")
    table.add_row("  p (McNemar, Holm)", *(p_values.get(name, "") for name in columns))


def _add_published(table: Table, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    group = ""
    for row in rows:
        if row["group"] != group:
            table.add_section()
            group = row["group"]
            table.add_row(group, style="italic")
        values = row["scores"] | {name: row[name] for name in AVERAGES}
        shares = [None if values.get(name) is None else values[name] / 100 for name in columns]
        table.add_row("  " + row["label"], *map(percent, shares))


def _notes(result: Mapping[str, Any]) -> list[str]:
    notes = [f"Lower part: {result['published_source']}. AV Avg. excludes AVQA."]
    if len(result["runs"]) == 2:
        notes.insert(0, "* p < 0.05   ** p < 0.01   *** p < 0.001, corrected over all compared benchmarks")
    if result["score"] == "official":
        notes.append(
            "Accuracies and differences are over all items; an item that a benchmark's rule leaves out (no answer "
            "found) counts as wrong. Counted by the rule: the accuracy over the items that it counts, and their number."
        )
    return notes


def _starred(p: float) -> str:
    return p_value(p) + ("***" if p < 0.001 else "**" if p < 0.01 else "*" if p < 0.05 else "")


def _print_line(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True, markup=False)
