"""Estimate a run's memory, FLOPs, time and length from its config, without loading the model.

Nothing is measured: read the times as a lower bound. Memory is that of the project's own training step, run on tensors
that have shapes but no data. Exit status 1 if the run does not fit.
"""

from __future__ import annotations

import argparse
from typing import Any

HARDWARE_OPTIONS = (
    ("--gpu-memory", 80.0, "GIB", "memory of one GPU"),
    ("--host-memory", 1000.0, "GIB", "memory of one machine"),
    ("--peak-tflops", 989.0, "TFLOPS", "dense bfloat16 peak of one GPU"),
    ("--efficiency", 0.35, "SHARE", "share of the peak that is reached"),
    ("--bandwidth", 3350.0, "GB/S", "bandwidth of GPU memory"),
    ("--host-bandwidth", 200.0, "GB/S", "bandwidth of host memory"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--config", action="append", required=True, metavar="FILE", help="as for fit; may be repeated")
    parser.add_argument("--devices", type=int, help="GPUs per machine (default: the config's)")
    parser.add_argument("--nodes", type=int, help="machines (default: the config's)")
    parser.add_argument("--student", metavar="PATH", help="folder or hub id, instead of the config's student")
    parser.add_argument("--samples", type=int, help="training samples, if the shards are not on this machine")
    parser.add_argument("--prompt-tokens", type=int, help="tokens of a prompt (default: the config's longest)")
    parser.add_argument("--completion-tokens", type=int, help="mean tokens of a response, for the time")
    for option, default, unit, text in HARDWARE_OPTIONS:
        parser.add_argument(option, type=float, default=default, metavar=unit, help=f"{text} (default: {default:g})")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def run(args: argparse.Namespace) -> int:
    """Print the plan."""
    import json
    import math
    import tempfile
    from dataclasses import replace
    from pathlib import Path

    from rich.console import Console

    from avrt.config.errors import UsageError, describe
    from avrt.demo.paths import locate_demo_paths
    from avrt.planning.cost import Hardware
    from avrt.planning.plan import make_plan, print_plan
    from avrt.planning.settings import read_settings

    for name, value in vars(args).items():
        if isinstance(value, (int, float)) and not isinstance(value, bool) and not 0 < value < math.inf:
            raise UsageError(f"--{name.replace('_', '-')} must be positive, got {value}")
    hardware = replace(
        Hardware(),
        peak_tflops=args.peak_tflops,
        efficiency=args.efficiency,
        bandwidth_gb=args.bandwidth,
        host_bandwidth_gb=args.host_bandwidth,
    )
    numbers = (args.samples, args.prompt_tokens, args.completion_tokens)
    with tempfile.TemporaryDirectory() as folder:

        def prepare(config: dict[str, Any]) -> None:
            locate_demo_paths(config, Path(folder) / "demo_student")

        try:
            settings = read_settings(
                args.config,
                args.devices,
                args.nodes,
                args.student,
                *numbers,
                prepare=prepare,
                allowed_classes=args.allowed_classes,
            )
        except ValueError as error:  # status 1 means that a run does not fit
            raise UsageError(describe(error)) from error
        plan = make_plan(settings, hardware, args.gpu_memory, args.host_memory)
    if args.json:
        print(json.dumps(plan.as_dict(), indent=1))  # noqa: T201
    else:
        print_plan(plan, Console())
    return 0 if plan.fits else 1
