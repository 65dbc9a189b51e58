"""A run's numbers, and those of compared runs, on the terminal."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from avrt.evaluation.comparison_tables import comparison_tables
from avrt.evaluation.further_tables import print_further_scores
from avrt.evaluation.number_format import ABSENT, interval, percent
from avrt.evaluation.records.log import RECORDS_FILE
from avrt.evaluation.run_media import audio_of, frames_of
from avrt.evaluation.scoring import BenchmarkRun
from avrt.evaluation.text_tables import Row, TextTable, print_table

PIPE_WIDTH = 120
"""A pipe or a log has no width; ``COLUMNS`` sets another one."""

RULE_GAP = 0.05
"""A line says why, if the two official scores differ by more than this share of the items."""

ERRORS = {"instruction_format": "format err.", "logic": "logic err.", "no_reply": "no reply"}


def score_console() -> Console:
    """Standard output, wide enough for a table of scores."""
    console = Console()
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(width=PIPE_WIDTH)


def print_scores(scored: Sequence[BenchmarkRun], console: Console) -> None:
    """One line per benchmark: the three scores, counts of errors, and what the model got of each clip."""
    heads = ("items", "strict", "95 % interval", "official", "on answer", *ERRORS.values(), "frames", "audio")
    rows = []
    for entry in scored:
        strict, errors = entry.metrics["strict"], entry.metrics["errors"]
        rows.append(
            Row(
                _name(entry),
                (
                    f"{strict['items']:,}",
                    percent(strict["accuracy"]),
                    interval(strict["interval"]),
                    *(percent(_over_all(entry, name)) for name in ("official", "official_answer")),
                    *(f"{errors[kind]:,}" for kind in ERRORS),
                    frames_of(entry),
                    audio_of(entry) if audio_of(entry) == ABSENT else f"{audio_of(entry)} s",
                ),
            )
        )
    notes = (
        "Accuracy over all items. Official: the benchmark's own rule, on the whole reply; on answer: on the answer's "
        "text alone.",
    )
    title = f"{scored[0].info.run}: accuracy in percent, errors in items"
    print_table(TextTable(title, "benchmark", heads, (tuple(rows),), notes), console)
    differing = [entry for entry in scored if _differs(entry)]
    if differing:
        _print_line(
            console,
            f"{', '.join(map(_name, differing))}: the official rule expects the answer alone, and tags or reasoning "
            "around it change what it reads. Papers apply it to the answer's text (on answer).",
        )
    print_further_scores(scored, console)
    for entry in scored:
        for line in _remarks(entry):
            _print_line(console, f"{_name(entry)}: {line}")


def _name(entry: BenchmarkRun) -> str:
    return f"{entry.info.benchmark} {entry.info.subset}" if entry.limited else entry.info.benchmark


def _over_all(entry: BenchmarkRun, score: str) -> float | None:
    """An official accuracy over all items; an item that the rule leaves out is wrong."""
    return entry.metrics[score]["correct"] / len(entry.records) if entry.records else None


def _differs(entry: BenchmarkRun) -> bool:
    """Whether the official rule reads whole replies otherwise than their answers."""
    raw, answer = (_over_all(entry, name) or 0.0 for name in ("official", "official_answer"))
    return abs(answer - raw) > RULE_GAP


def _print_line(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True, markup=False)


def _remarks(entry: BenchmarkRun) -> list[str]:
    """Items that the official rule does not count, and items without a reply."""
    lines = []
    counted = entry.metrics["official"]
    if counted["items"] < len(entry.records):
        lines.append(
            f"the official rule counts {counted['items']:,} of {len(entry.records):,} items; over these the official "
            f"accuracy is {percent(counted['accuracy'])}"
        )
    failures = Counter(record.failure for record in entry.records if record.failure is not None)
    if failures:
        counts = ", ".join(f"{count} {name}" for name, count in sorted(failures.items()))
        lines.append(
            f"no reply, counted as wrong: {counts} (each with its `failure_detail` in {entry.folder / RECORDS_FILE})"
        )
    return lines


def print_comparison(result: Mapping[str, Any]) -> None:
    """The result of `avrt.evaluation.comparison.compare` in the form of the paper's Tables 3, 8 and 9."""
    console = score_console()
    for table in comparison_tables(result):
        print_table(table, console)
        console.print()
