"""Write an HTML page of one run, or of two runs side by side; it opens without a server or a network.

Tables and plots with intervals, filters, and every item with its question, replies, frames and audio. When repeated
with the same folder, existing clips are kept.
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("run_a", metavar="RUN", help="folder of a run (its benchmarks in sub-folders)")
    parser.add_argument("run_b", metavar="RUN_B", nargs="?", help="folder of another run on the same items")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the page")
    parser.add_argument("--data", metavar="DIR", help="the benchmarks' data, if they were moved")
    parser.add_argument("--no-media", action="store_true", help="leave out frames and audio")
    parser.add_argument("--partial", action="store_true", help="accept unfinished runs")


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
            args.run_a,
            args.out,
            args.run_b,
            data=args.data,
            media=not args.no_media,
            partial=args.partial,
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
