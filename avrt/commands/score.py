"""Score an evaluation run again from its raw replies.

Reads every reply anew and rewrites records.jsonl and metrics.json; the same replies always give the same bytes.
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("run", metavar="RUN", help="folder of a run, or of one of its benchmarks")
    parser.add_argument("--partial", action="store_true", help="score an unfinished run, over the items that it has")
    parser.add_argument(
        "--harness", metavar="DIR", help="also write results_*.json and samples_*.jsonl of lm-evaluation-harness there"
    )


def run(args: argparse.Namespace) -> int:
    """Score, write, and print one line per benchmark."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from avrt.evaluation.harness_format import write_harness_files
    from avrt.evaluation.scoring import score_run, write_scores

    scored = score_run(args.run, partial=args.partial)
    for entry in scored:
        write_scores(entry)
    title = f"{escape(scored[0].info.run)}: accuracy in percent, errors in items"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("benchmark", overflow="fold")
    for head in ("items", "strict", "95 % interval", "official", "of", "format errors", "logic errors", "no reply"):
        table.add_column(head, justify="right", overflow="fold")
    for entry in scored:
        metrics = entry.metrics
        strict, official, errors = metrics["strict"], metrics["official"], metrics["errors"]
        low, high = strict["interval"]
        share = official["accuracy"]
        own = "-" if share is None else f"{100 * share:.1f}"
        table.add_row(
            entry.info.benchmark,
            str(strict["items"]),
            "-" if strict["accuracy"] is None else f"{100 * strict['accuracy']:.1f}",
            f"[{100 * low:.1f}, {100 * high:.1f}]",
            own,
            str(official["items"]),
            *(str(errors[name]) for name in ("instruction_format", "logic", "no_reply")),
        )
    # A pipe or a log has no width of its own: rather long lines than broken numbers.
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    console.print(table)
    if args.harness:
        for path in write_harness_files(scored, args.harness):
            console.print(f"wrote {path}", highlight=False, soft_wrap=True, markup=False)
    return 0
