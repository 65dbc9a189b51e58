"""Write an HTML page of one run, or of several side by side; it opens without a server or a network.

Tables and plots with intervals, filters, and every item with its question, replies, frames and audio. When repeated
with the same folder, existing clips are kept.
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("runs", metavar="RUN", nargs="+", help="folders of runs on the same items; A, B, C, ...")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the page")
    parser.add_argument("--data", metavar="DIR", help="the benchmarks' data, if they were moved")
    parser.add_argument("--no-media", action="store_true", help="leave out frames and audio")
    parser.add_argument("--partial", action="store_true", help="accept unfinished runs")
    parser.add_argument("--official-rule", metavar="NAME", help="an older official rule, such as videomme-2024-06-03")


def run(args: argparse.Namespace) -> int:
    """Write the page; print its path and the clips that are missing."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from avrt.evaluation.report.page import write_report
    from avrt.files.folder_lock import FolderLock

    console = Console(stderr=True)
    columns = (TextColumn("clips"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with FolderLock(args.out, "report"), Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("clips", total=None)
        report = write_report(
            args.runs[0],
            args.out,
            *args.runs[1:],
            data=args.data,
            media=not args.no_media,
            partial=args.partial,
            rule=args.official_rule,
            on_clip=lambda done, total: progress.update(task, completed=done, total=total),
        )
    output = Console()
    output.print(f"{report.items} items about {report.clips} clips: {report.page}", highlight=False, soft_wrap=True)
    if report.problems:
        item, problem = next(iter(report.problems.items()))
        output.print(
            f"{len(report.problems)} clips cannot be shown, for example that of item {item!r}: {problem}. "
            "If the data were moved, set --data.",
            highlight=False,
            soft_wrap=True,
            markup=False,
        )
    return 0
