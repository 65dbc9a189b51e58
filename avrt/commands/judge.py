"""Judge the quality of traces with a model that sees and hears the clips.

The judge reads each trace beside its clip and says whether it is accurate, leaves something out, or claims what is not
there; with two sets of traces, which one is better, in both orders; and with the teachers' traces, where false claims
come from. After an interruption, the same command continues. Every key of the config is an option too.

    python -m avrt judge --config cli_configs/judge.yaml
    python -m avrt judge --config cli_configs/judge.yaml --stage head_to_head --judge.max_concurrency 8
    python -m avrt judge --score runs/judge
"""

from __future__ import annotations

import argparse

TAKES_SETTINGS = True

STEPS = ("individual", "head_to_head", "source", "write")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--config", action="append", metavar="FILE", help="the run's settings; a second file overrides the first"
    )
    parser.add_argument("--stage", choices=STEPS, action="append", help="run this step only (may be repeated)")
    parser.add_argument("--retry-rejected", action="store_true", help="repeat calls that were refused or interrupted")
    parser.add_argument(
        "--score", metavar="FOLDER", help="only compute the scores of a finished run again, from its verdicts.jsonl"
    )


def run(args: argparse.Namespace) -> int:
    """Run the steps and print the scores."""
    if args.score is not None:
        if args.config or args.settings or args.stage or args.retry_rejected:
            raise ValueError("--score: takes no other option; it reads the folder's verdicts.jsonl and calls no server")
        from avrt.evaluation.terminal_tables import score_console
        from avrt.judging.run import score_again
        from avrt.judging.tables import print_judgments

        print_judgments(score_again(args.score), score_console())
        return 0

    from avrt.judging.config import load_config

    config = load_config(args.config or [], args.settings)

    # Heavy: a mistyped key has been reported by now.
    from avrt.demo.paths import build_demo_paths
    from avrt.evaluation.terminal_tables import score_console
    from avrt.judging.run import run_judge
    from avrt.judging.tables import print_judgments

    build_demo_paths(config)
    steps = tuple(step for step in STEPS if not args.stage or step in args.stage)
    scores = run_judge(config, steps=steps, retry_rejected=args.retry_rejected)
    if scores is not None:
        print_judgments(scores, score_console())
    return 0
