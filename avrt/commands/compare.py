"""Compare evaluation runs, in the form of the paper's Tables 3, 8 and 9.

Prints accuracy with its interval for each benchmark that was run, the differences from the first run with paired
intervals, and their significance (exact McNemar test, Holm's correction over all comparisons), beside the numbers that
the paper publishes; then the kinds of errors.

    python -m avrt compare runs/base runs/sft runs/grpo
    python -m avrt compare runs/base/omnibench runs/grpo/omnibench --subset subsets/omnibench --format latex
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("runs", metavar="RUN", nargs="+", help="folders of runs; differences are from the first one")
    parser.add_argument(
        "--score",
        choices=("strict", "official", "official-answer"),
        default="strict",
        help="strict (default); official: the benchmarks' own rules; official-answer: these rules on the answer's "
        "text. Items that a rule leaves out count as wrong",
    )
    parser.add_argument(
        "--official", action="store_const", const="official", dest="score", help="short for --score official"
    )
    parser.add_argument("--official-rule", metavar="NAME", help="an older official rule, such as videomme-2024-06-03")
    parser.add_argument(
        "--subset",
        action="append",
        default=[],
        metavar="PATH",
        help="only the items of a list of ids, or of each list in a folder (easy, medium, hard); repeatable",
    )
    parser.add_argument("--partial", action="store_true", help="accept unfinished runs, over the items all have")
    parser.add_argument("--names", nargs="+", default=[], metavar="NAME", help="names of the runs in the tables")
    parser.add_argument(
        "--format", choices=("text", "markdown", "latex", "csv"), default="text", help="format of the printed tables"
    )
    parser.add_argument("--json", metavar="FILE", help="write the same numbers, unrounded, as JSON; - for the screen")
    parser.add_argument("--resamples", type=int, default=10_000, metavar="N", help="bootstrap draws (default: 10000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Compare and print."""
    import json
    import sys
    from pathlib import Path

    from avrt.evaluation.comparison import compare
    from avrt.evaluation.comparison_tables import as_csv, comparison_tables
    from avrt.evaluation.terminal_tables import print_comparison
    from avrt.evaluation.text_tables import as_latex, as_markdown
    from avrt.files.atomic import write_atomic

    if args.resamples < 100:
        raise ValueError(f"--resamples must be at least 100, got {args.resamples}")
    result = compare(
        *args.runs,
        score=args.score.replace("-", "_"),
        partial=args.partial,
        subsets=args.subset,
        rule=args.official_rule,
        names=args.names,
        resamples=args.resamples,
        seed=args.seed,
    )
    text = json.dumps(result, indent=2, allow_nan=False) + "\n"
    if args.json == "-":
        sys.stdout.write(text)
        return 0
    if args.json:
        write_atomic(Path(args.json), text.encode())
    if args.format == "text":
        print_comparison(result)
    elif args.format == "csv":
        sys.stdout.write(as_csv(result))
    else:
        render = as_markdown if args.format == "markdown" else as_latex
        sys.stdout.write("\n".join(map(render, comparison_tables(result))))
    return 0
