"""Estimate a run's memory, FLOPs, time and length from its config, without loading the model.

Nothing is measured: read the times as a lower bound. Memory is that of the project's own training step, run on tensors
that have shapes but no data. Exit status 1 if the run does not fit.
"""

from __future__ import annotations

import argparse
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--config", action="append", required=True, metavar="FILE", help="as for fit; may be repeated")
    parser.add_argument("--devices", type=int, help="GPUs per machine (default: the config's)")
    parser.add_argument("--nodes", type=int, help="machines (default: the config's)")
    parser.add_argument("--student", metavar="PATH", help="folder or hub id, instead of the config's student")
    parser.add_argument("--samples", type=int, help="training samples, if the shards are not on this machine")
    parser.add_argument(
        "--prompt-tokens", type=int, help="tokens of a prompt (default: the longest that the config allows)"
    )
    parser.add_argument("--completion-tokens", type=int, help="mean tokens of a response, for the time")
    parser.add_argument("--gpu-memory", type=float, default=80.0, metavar="GIB", help="memory of one GPU (default: 80)")
    parser.add_argument(
        "--host-memory", type=float, default=1000.0, metavar="GIB", help="memory of a machine (default: 1000)"
    )
    parser.add_argument(
        "--peak-tflops", type=float, default=989.0, help="dense bfloat16 TFLOP/s of one GPU (default: 989)"
    )
    parser.add_argument("--efficiency", type=float, default=0.35, help="share of the peak reached (default: 0.35)")
    parser.add_argument(
        "--bandwidth", type=float, default=3350.0, metavar="GB/S", help="bandwidth of GPU memory (default: 3350)"
    )
    parser.add_argument(
        "--host-bandwidth", type=float, default=200.0, metavar="GB/S", help="bandwidth of host memory (default: 200)"
    )
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
            raise UsageError(f"--{name.replace('_', '-')} must be positive, is {value}")
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
            settings = read_settings(args.config, args.devices, args.nodes, args.student, *numbers, prepare=prepare)
        except ValueError as error:  # status 1 means that a run does not fit
            raise UsageError(describe(error)) from error
        plan = make_plan(settings, hardware, args.gpu_memory, args.host_memory)
    if args.json:
        print(json.dumps(plan.as_dict(), indent=1))  # noqa: T201
    else:
        print_plan(plan, Console())
    return 0 if plan.fits else 1
