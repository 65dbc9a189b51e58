"""Measure everything on one GPU: ``python -m benchmarks.gpu [--parts NAME …] [--output gpu.json]``."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from benchmarks.gpu.parts import DEVICE, PARTS, select
from benchmarks.gpu.runner import SCHEMA, Result, add, run_part, run_parts
from benchmarks.gpu.tables import print_result


def main(words: list[str] | None = None) -> int:
    """0 if no part failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--parts", nargs="+", metavar="NAME", help="only these parts, or families of them")
    parser.add_argument("--list", action="store_true", help="print the names of all parts and exit")
    parser.add_argument("--budget-seconds", type=float, default=480.0, help="for all parts (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("gpu.json"), help="(default: %(default)s)")
    parser.add_argument("--miniature", action="store_true", help="tiny shapes on the CPU; automatic without a GPU")
    options = parser.parse_args(words)
    if options.list:
        print("\n".join(part.name for part in PARTS))
        return 0
    try:
        parts = select(options.parts)
    except ValueError as error:
        parser.error(str(error))
    if not options.output.parent.is_dir():
        parser.error(f"--output: the folder {options.output.parent} does not exist")

    start = time.monotonic()
    result: Result = {"schema": SCHEMA, "device": {}, "parts": {}, "hardware": {}}
    found = run_part(DEVICE, "miniature", DEVICE.limit)
    add(result, DEVICE.name, found)
    if found["status"] != "ok" and not options.miniature:
        tell(f"whether there is a GPU could not be found out: {found['reason']}; --miniature runs without one")
        return 1
    miniature = options.miniature or not result["device"].get("cuda_available", False)
    result["device"]["miniature"] = miniature
    if miniature and not options.miniature:
        tell("no GPU found: a miniature of every part runs on the CPU, and its figures mean nothing")
    budget = options.budget_seconds - (time.monotonic() - start)
    run_parts(parts, "miniature" if miniature else "full", budget, options.output, result, tell)
    print_result(result)
    print(f"written to {options.output}")
    return int(any(part["status"] == "failed" for part in result["parts"].values()))


def tell(text: str) -> None:
    """Print progress at once, also into a file."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
