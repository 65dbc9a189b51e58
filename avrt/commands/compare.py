"""Compare two evaluation runs, in the form of the paper's Table 3.

Prints accuracy with its interval for each benchmark, the difference with a paired interval, and its significance (exact
McNemar test, Holm's correction over the benchmarks), beside the numbers that the paper publishes.
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("run_a", metavar="RUN_A", help="folder of a run (its benchmarks in sub-folders)")
    parser.add_argument("run_b", metavar="RUN_B", nargs="?", help="folder of another; differences are RUN_B - RUN_A")
    parser.add_argument(
        "--official",
        action="store_true",
        help="score by the benchmarks' own rules, not strictly; items that a rule leaves out count as wrong",
    )
    parser.add_argument("--partial", action="store_true", help="accept unfinished runs, over the items both have")
    parser.add_argument("--json", metavar="FILE", help="write the same numbers, unrounded, as JSON; - for the screen")
    parser.add_argument("--resamples", type=int, default=10_000, metavar="N", help="bootstrap draws (default: 10000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Compare and print."""
    import json
    import sys
    from pathlib import Path

    from avrt.evaluation.comparison import compare
    from avrt.evaluation.terminal_tables import print_comparison
    from avrt.files.atomic import write_atomic

    if args.resamples < 100:
        raise ValueError(f"--resamples must be at least 100, got {args.resamples}")
    result = compare(
        args.run_a,
        args.run_b,
        score="official" if args.official else "strict",
        partial=args.partial,
        resamples=args.resamples,
        seed=args.seed,
    )
    text = json.dumps(result, indent=2, allow_nan=False) + "\n"
    if args.json == "-":
        sys.stdout.write(text)
        return 0
    if args.json:
        write_atomic(Path(args.json), text.encode())
    print_comparison(result)
    return 0
