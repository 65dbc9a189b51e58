"""Score an evaluation run again from its raw replies.

Parses every reply again and rewrites records.jsonl and metrics.json; the same replies always give the same bytes. With
--subset it prints the scores of some of the items and rewrites nothing.
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
        "--subset",
        action="append",
        default=[],
        metavar="PATH",
        help="score only the items of a list of ids, or of each list in a folder (easy, medium, hard); repeatable",
    )
    parser.add_argument("--official-rule", metavar="NAME", help="an older official rule, such as videomme-2024-06-03")
    parser.add_argument(
        "--harness", metavar="DIR", help="also write results_*.json and samples_*.jsonl of lm-evaluation-harness there"
    )


def run(args: argparse.Namespace) -> int:
    """Score, write, and print one line per benchmark."""
    from avrt.evaluation.harness_format import write_harness_files
    from avrt.evaluation.run_subsets import limit_run, read_subsets
    from avrt.evaluation.scoring import score_run, write_scores
    from avrt.evaluation.terminal_tables import print_scores, score_console
    from avrt.files.folder_lock import FolderLock

    with FolderLock(args.run, "score") if Path(args.run).is_dir() else nullcontext():
        if args.subset:
            lists = read_subsets(args.subset)
            scored = limit_run(score_run(args.run, partial=True, rule=args.official_rule), lists, partial=args.partial)
        else:
            scored = score_run(args.run, partial=args.partial, rule=args.official_rule)
            for entry in scored:
                write_scores(entry)
    console = score_console()
    print_scores(scored, console)
    if args.harness:
        for path in write_harness_files(scored, args.harness):
            console.print(f"wrote {path}", highlight=False, soft_wrap=True, markup=False)
    return 0
