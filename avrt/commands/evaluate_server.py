"""Evaluate a model behind OpenAI-compatible servers on the benchmarks.

Any model that takes images or audio gets the same records, scores and tables as a student. After an interruption, the
same command continues. Every key of the config is an option too.

    python -m avrt evaluate-server --config cli_configs/eval_server.yaml
    python -m avrt evaluate-server --config cli_configs/eval_server.yaml --questions.benchmarks mmau \\
        --output_dir runs/eval_server_mmau
"""

from __future__ import annotations

import argparse

TAKES_SETTINGS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--config", action="append", metavar="FILE", help="the run's settings; a second file overrides the first"
    )


def run(args: argparse.Namespace) -> int:
    """Evaluate, score, and print one line per benchmark."""
    from avrt.evaluation.server_config import load_server_config

    config = load_server_config(args.config or [], args.settings)

    from avrt.demo.paths import build_demo_paths
    from avrt.evaluation.server_runner import run_server_evaluation
    from avrt.files.folder_lock import FolderLock

    build_demo_paths(config)
    with FolderLock(config.output_dir, "evaluate-server"):
        run_server_evaluation(config)
    return 0
