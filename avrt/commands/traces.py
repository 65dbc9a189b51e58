"""Make reasoning traces with single-modality teachers.

Teachers that each get a part of a clip reason about it, a merger composes one trace from their replies, and the samples
that pass the filter are written as shards for fine-tuning. After an interruption, the same command continues.
Every key of the config is an option too.

    python -m avrt traces --config cli_configs/traces_avqa.yaml
    python -m avrt traces --config cli_configs/traces_avqa.yaml --stage vision \\
        --teachers.vision.max_concurrency 8
    python -m avrt traces --config cli_configs/traces_avqa.yaml --stage write --variant audio_only \\
        --output shards/avrt20k_audio_only
"""

from __future__ import annotations

import argparse

TAKES_SETTINGS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--config", action="append", metavar="FILE", help="the run's settings; a second file overrides the first"
    )
    parser.add_argument(
        "--stage",
        action="append",
        metavar="NAME",
        help="run this step only: a teacher's name, merge or write (may be repeated)",
    )
    parser.add_argument("--retry-rejected", action="store_true", help="repeat calls that were refused or interrupted")
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes that divide each stage with Ray Data"
    )


def run(args: argparse.Namespace) -> int:
    """Run the steps and print the statistics."""
    from avrt.traces.config import load_config

    config = load_config(args.config or [], args.settings)

    # Heavy: a mistyped key has been reported by now.
    from avrt.demo.paths import build_demo_paths
    from avrt.traces.pipeline import run_traces
    from avrt.traces.statistics import print_folders, print_statistics

    build_demo_paths(config)
    statistics = run_traces(config, steps=args.stage, retry_rejected=args.retry_rejected, workers=args.workers)
    if statistics is not None:
        print_statistics(statistics)
        print_folders(config, statistics)
    return 0
