"""Make reasoning traces with single-modality teachers.

Asks a vision teacher and an audio teacher about every clip, lets a merger compose one trace of the two, and writes the
samples that pass the filter as shards for fine-tuning. Stopped at any moment, the same command goes on where it was.

    python -m avrt traces --config cli_configs/traces_avqa.yaml
    python -m avrt traces --config cli_configs/traces_avqa.yaml --stage vision
    python -m avrt traces --config cli_configs/traces_avqa.yaml --stage write --set variant=audio_only \\
        --set output=shards/avrt20k_audio_only
"""

from __future__ import annotations

import argparse

STEPS = ("vision", "audio", "merge", "write")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--config", action="append", metavar="FILE", help="the run's settings; a second file is laid over the first"
    )
    parser.add_argument("--stage", choices=STEPS, action="append", help="run this step only (may be repeated)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="settings", help="one setting over the files'"
    )
    parser.add_argument("--retry-rejected", action="store_true", help="call again where a server refused for good")
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes that share each stage out by Ray Data"
    )


def run(args: argparse.Namespace) -> int:
    """Run the steps and print the statistics."""
    from avrt.demo.paths import resolve_demo_paths
    from avrt.traces.config import load_config
    from avrt.traces.pipeline import run_traces
    from avrt.traces.statistics import print_folders, print_statistics

    config = load_config(args.config or [], args.settings)
    resolve_demo_paths(config)
    steps = tuple(step for step in STEPS if not args.stage or step in args.stage)
    statistics = run_traces(config, steps=steps, retry_rejected=args.retry_rejected, workers=args.workers)
    if statistics is not None:
        print_statistics(statistics)
        print_folders(config, statistics)
    return 0
