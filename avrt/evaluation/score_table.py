"""A run's numbers as a table on the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from avrt.evaluation.records.log import RECORDS_FILE
from avrt.evaluation.scoring import BenchmarkRun

PIPE_WIDTH = 120
"""A pipe or a log has no width of its own: rather long lines than broken numbers."""


def score_console() -> Console:
    """Standard output, wide enough for the table."""
    console = Console()
    return console if console.is_terminal else Console(width=PIPE_WIDTH)


def print_scores(scored: Sequence[BenchmarkRun], console: Console) -> None:
    """One line per benchmark: strict and official accuracy, and what went wrong."""
    title = f"{escape(scored[0].info.run)}: accuracy in percent, errors in items"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("benchmark", overflow="fold")
    for head in ("items", "strict", "95 % interval", "official", "of", "format errors", "logic errors", "no reply"):
        table.add_column(head, justify="right", overflow="fold")
    for entry in scored:
        strict, official, errors = (entry.metrics[name] for name in ("strict", "official", "errors"))
        low, high = strict["interval"]
        table.add_row(
            entry.info.benchmark,
            str(strict["items"]),
            _percent(strict["accuracy"]),
            f"[{100 * low:.1f}, {100 * high:.1f}]",
            _percent(official["accuracy"]),
            str(official["items"]),
            *(str(errors[name]) for name in ("instruction_format", "logic", "no_reply")),
        )
    console.print(table)
    for entry in scored:
        failures = Counter(record.failure for record in entry.records if record.failure is not None)
        if failures:
            counts = ", ".join(f"{count} {name}" for name, count in sorted(failures.items()))
            console.print(
                f"{entry.info.benchmark}: no reply, so wrong: {counts} (each with its `failure_detail` in "
                f"{entry.folder / RECORDS_FILE})",
                highlight=False,
                soft_wrap=True,
                markup=False,
            )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
