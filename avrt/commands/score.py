"""Score an evaluation run again from its raw replies.

Parses every reply again and rewrites records.jsonl and metrics.json; the same replies always give the same bytes.
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("run", metavar="RUN", help="folder of a run, or of one of its benchmarks")
    parser.add_argument("--partial", action="store_true", help="score an unfinished run, over its items so far")
    parser.add_argument(
        "--harness", metavar="DIR", help="also write results_*.json and samples_*.jsonl of lm-evaluation-harness there"
    )


def run(args: argparse.Namespace) -> int:
    """Score, write, and print one line per benchmark."""
    from avrt.evaluation.harness_format import write_harness_files
    from avrt.evaluation.scoring import score_run, write_scores
    from avrt.evaluation.terminal_tables import print_scores, score_console
    from avrt.files.folder_lock import FolderLock

    with FolderLock(args.run, "score") if Path(args.run).is_dir() else nullcontext():
        scored = score_run(args.run, partial=args.partial)
        for entry in scored:
            write_scores(entry)
    console = score_console()
    print_scores(scored, console)
    if args.harness:
        for path in write_harness_files(scored, args.harness):
            console.print(f"wrote {path}", highlight=False, soft_wrap=True, markup=False)
    return 0
