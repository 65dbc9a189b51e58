"""Estimate a run's memory, FLOPs, time and length from its config, without loading the model.

Times are computed: read them as a lower bound. Speeds of the GPU and its host are assumed, or measured by
`python -m benchmarks.gpu` (--measured). Memory is that of the project's own training step, run on tensors that have
shapes but no data. Exit status 1 if the run does not fit.
"""

from __future__ import annotations

import argparse
from typing import Any

from avrt.planning.hardware import Hardware, override, read_measured

HARDWARE_OPTIONS = (
    ("--peak-tflops", "peak_tflops", "TFLOPS", "dense bfloat16 peak of one GPU"),
    ("--efficiency", "efficiency", "SHARE", "share of the peak that is reached"),
    ("--bandwidth", "bandwidth_gb", "GB/S", "bandwidth of GPU memory"),
    ("--bandwidth-efficiency", "bandwidth_efficiency", "SHARE", "share of it that decoding reaches"),
    ("--launch", "launch_us", "US", "time to launch a kernel, microseconds"),
    ("--host-bandwidth", "host_bandwidth_gb", "GB/S", "bandwidth of host memory"),
    ("--link", "link_gb", "GB/S", "bandwidth one way between one GPU and pinned host memory"),
    ("--pageable-link", "pageable_link_gb", "GB/S", "the same for host memory that is not pinned"),
)
"""Options with the attributes of `avrt.planning.hardware.Hardware` that they set."""

MEMORY_OPTIONS = (
    ("--gpu-memory", 80.0, "GIB", "memory of one GPU"),
    ("--host-memory", 1000.0, "GIB", "memory of one machine"),
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
    parser.add_argument(
        "--longest-tokens", type=int, help="tokens of the longest response on a GPU, for the time (default: the limit)"
    )
    for option, default, unit, text in MEMORY_OPTIONS:
        parser.add_argument(option, type=float, default=default, metavar=unit, help=f"{text} (default: {default:g})")
    parser.add_argument(
        "--measured", metavar="FILE", help="gpu.json of benchmarks.gpu: measured speeds in place of assumed ones"
    )
    for option, attribute, unit, text in HARDWARE_OPTIONS:
        parser.add_argument(
            option,
            type=float,
            metavar=unit,
            help=f"{text} (default: measured, or {getattr(Hardware, attribute):g})",
        )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def run(args: argparse.Namespace) -> int:
    """Print the plan."""
    import json
    import math
    import tempfile
    from pathlib import Path

    from rich.console import Console

    from avrt.config.errors import UsageError, describe
    from avrt.demo.paths import locate_demo_paths
    from avrt.planning.plan import make_plan, print_plan
    from avrt.planning.settings import read_settings

    for name, value in vars(args).items():
        if isinstance(value, (int, float)) and not isinstance(value, bool) and not 0 < value < math.inf:
            raise UsageError(f"--{name.replace('_', '-')} must be positive, got {value}")
    hardware = Hardware() if args.measured is None else read_measured(args.measured)
    given = {attribute: getattr(args, option[2:].replace("-", "_")) for option, attribute, _, _ in HARDWARE_OPTIONS}
    hardware = override(hardware, {attribute: value for attribute, value in given.items() if value is not None})
    numbers = (args.samples, args.prompt_tokens, args.completion_tokens, args.longest_tokens)
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
