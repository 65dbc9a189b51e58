"""Make easy, medium and hard lists of items from two teachers' answers.

Easy items both teachers answer right, medium items one of them, hard items none. The lists are files of ids that an
evaluation can be limited to.
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    source = "a run folder, its records.jsonl, or JSON lines of {id, correct}"
    parser.add_argument("--vision", required=True, metavar="PATH", help=f"the vision teacher's answers: {source}")
    parser.add_argument("--audio", required=True, metavar="PATH", help="the audio teacher's answers, likewise")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for easy.txt, medium.txt and hard.txt")
    parser.add_argument("--benchmark", metavar="NAME", help="which benchmark, where a run has several")


def run(args: argparse.Namespace) -> int:
    """Make the lists and print their sizes."""
    from rich.console import Console

    from avrt.evaluation.subsets import difficulty_subsets, read_outcomes, write_subsets

    vision, audio = (read_outcomes(path, args.benchmark) for path in (args.vision, args.audio))
    summary = write_subsets(
        difficulty_subsets(vision, audio), args.out, {"vision": str(args.vision), "audio": str(args.audio)}
    )
    counts = ", ".join(f"{count} {name}" for name, count in summary["counts"].items())
    Console().print(
        f"{summary['items']} items: {counts}; lists in {args.out}", highlight=False, soft_wrap=True, markup=False
    )
    return 0
