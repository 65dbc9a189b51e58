"""Write an HTML page of evaluation runs, or of a trace run; it opens without a server or a network.

Evaluation: one run, or several side by side, with tables, plots with intervals, filters, and every item with its
question, replies, frames and audio. Traces: samples chosen at random from each reason of the filter, with all replies,
the trace, frames and audio, beside the paper's statistics. When repeated with the same folder, existing
clips are kept.

    python -m avrt report runs/eval_server runs/eval_dailyomni --out report
    python -m avrt report --traces cli_configs/traces_avqa.yaml --out report_traces --per-reason 100
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from avrt.pages.page_files import Report

_OF_RUNS = ("data", "partial", "official_rule")
_OF_TRACES = ("per_reason", "seed", "annotations", "judgments")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("runs", metavar="RUN", nargs="*", help="folders of runs on the same items; A, B, C, ...")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the page")
    parser.add_argument("--no-media", action="store_true", help="leave out frames and audio")
    runs = parser.add_argument_group("evaluation")
    runs.add_argument("--data", metavar="DIR", help="the benchmarks' data, if they were moved")
    runs.add_argument("--partial", action="store_true", default=None, help="accept unfinished runs")
    runs.add_argument("--official-rule", metavar="NAME", help="an older official rule, such as videomme-2024-06-03")
    traces = parser.add_argument_group("traces")
    traces.add_argument(
        "--traces", action="append", metavar="FILE", help="config of a trace run; a second file overrides the first"
    )
    traces.add_argument("--per-reason", type=int, metavar="N", help="samples to show per reason (default 50)")
    traces.add_argument("--seed", type=int, metavar="N", help="seed of their choice (default 0)")
    traces.add_argument(
        "--annotations",
        action="append",
        metavar="FILE",
        help="annotations to compare, such as AVQA's; repeatable",
    )
    traces.add_argument("--judgments", metavar="DIR", help="output of `avrt judge` on these traces")


def run(args: argparse.Namespace) -> int:
    """Write the page; print its path and the clips that are missing."""
    _check(args)

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from avrt.files.folder_lock import FolderLock

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        FolderLock(args.out, "report"),
        Progress(*columns, console=Console(stderr=True), transient=True) as progress,
    ):
        task = progress.add_task("samples" if args.traces else "clips", total=None)

        def show(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total)

        report = _write_traces(args, show) if args.traces else _write_runs(args, show)
    output = Console()
    what = "samples" if args.traces else "items"
    output.print(f"{report.items} {what} about {report.clips} clips: {report.page}", highlight=False, soft_wrap=True)
    if report.problems:
        item, problem = next(iter(report.problems.items()))
        fix = "" if args.traces else " If the data were moved, set --data."
        output.print(
            f"{len(report.problems)} clips cannot be shown, for example that of item {item!r}: {problem}.{fix}",
            highlight=False,
            soft_wrap=True,
            markup=False,
        )
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuse options that do not belong together."""
    from avrt.config.errors import UsageError

    if bool(args.traces) == bool(args.runs):
        raise UsageError("report: give folders of evaluation runs, or --traces with the config of a trace run")
    for name in _OF_RUNS if args.traces else _OF_TRACES:
        if getattr(args, name) is not None:
            other = "evaluation runs" if args.traces else "--traces"
            raise UsageError(f"report: --{name.replace('_', '-')} is an option of {other} only")


def _write_traces(args: argparse.Namespace, show: Callable[[str, int, int], None]) -> Report:
    from avrt.demo.paths import build_demo_paths
    from avrt.traces.config import load_config
    from avrt.traces.report.page import PageOptions, write_trace_report

    config = load_config(args.traces)
    build_demo_paths(config)
    given = {name: value for name in _OF_TRACES if (value := getattr(args, name)) is not None}
    return write_trace_report(config, args.out, PageOptions(media=not args.no_media, **given), show)


def _write_runs(args: argparse.Namespace, show: Callable[[str, int, int], None]) -> Report:
    from avrt.evaluation.report.page import write_report

    return write_report(
        args.runs[0],
        args.out,
        *args.runs[1:],
        data=args.data,
        media=not args.no_media,
        partial=bool(args.partial),
        rule=args.official_rule,
        on_clip=lambda done, total: show("clips", done, total),
    )
