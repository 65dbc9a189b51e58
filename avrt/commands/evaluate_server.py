"""Evaluate a model behind OpenAI-compatible servers on the benchmarks.

Any model that takes frames or sound gets the same records, scores and tables as a student. Stopped at any moment, the
same command goes on where it was.

    python -m avrt evaluate-server --config cli_configs/eval_server.yaml
    python -m avrt evaluate-server --config cli_configs/eval_server.yaml --set questions.benchmarks=mmau \\
        --set run=runs/eval_server_mmau
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--config", action="append", metavar="FILE", help="the run's settings; a second file is laid over the first"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="settings", help="one setting over the files'"
    )


def run(args: argparse.Namespace) -> int:
    """Ask, score, and print one line per benchmark."""
    from avrt.evaluation.server_config import load_server_config

    config = load_server_config(args.config or [], args.settings)

    from avrt.evaluation.server_runner import run_server_evaluation

    run_server_evaluation(config)
    return 0
