"""Alternating measurements, their spread, and output of the results."""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import multiprocessing
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.table import Table

T = TypeVar("T")


@dataclass(frozen=True)
class Timing:
    """Seconds of repeated runs of one contestant."""

    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> str:
        """Smallest to largest, in seconds."""
        return f"{min(self.seconds):.3g} to {max(self.seconds):.3g}"


def alternate(contestants: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 1) -> dict[str, Timing]:
    """Run every contestant once per round, in turn; the first `warmup` rounds do not count.

    A contestant may return its own seconds as a float, which then count instead of its wall time.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for i in range(warmup + rounds):
        for name, run in contestants.items():
            start = time.perf_counter()
            own = run()
            elapsed = time.perf_counter() - start
            if i >= warmup:
                seconds[name].append(own if isinstance(own, float) else elapsed)
    return {name: Timing(values) for name, values in seconds.items()}


def wait_for_device() -> None:
    """Until the GPU has finished, before a clock is read; nothing without one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def paired_ratio(slow: Timing, fast: Timing) -> tuple[float, float, float]:
    """Median, smallest and largest of the rounds' ratios: each compares two neighboring runs."""
    ratios = [a / b for a, b in zip(slow.seconds, fast.seconds, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)


def peak_memory_above(run: Callable[[], object]) -> int:
    """Peak resident memory during `run` minus the resident memory before it, in bytes (Linux).

    The allocator first returns freed memory to the system: otherwise `run` could use it unnoticed.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    page = os.sysconf("SC_PAGE_SIZE")

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * page

    before = peak = resident()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, resident())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        run()
    finally:
        done.set()
        thread.join()
    return max(peak, resident()) - before


def in_fresh_process(work: Callable[..., T], *arguments: object) -> T:
    """The result of `work` in a new process, for memory measurements.

    Its C library maps every block of a mebibyte or more separately and returns it to the system when it is freed, so
    fragments of earlier runs do not count.
    """
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(1 << 20)  # read when the new process starts
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(work, *arguments).result()
    finally:
        del os.environ["MALLOC_MMAP_THRESHOLD_"]


def machine() -> dict[str, Any]:
    """The machine and the package versions of the measurement."""
    packages = ("torch", "transformers", "trl", "lightning", "webdataset", "av")
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in packages},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # not every benchmark needs every peer
        return "not installed"


def parser(doc: str | None, rounds: int) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    result = argparse.ArgumentParser(description=(doc or "").strip().splitlines()[0])
    result.add_argument("--rounds", type=int, default=rounds, help="measured rounds (default: %(default)s)")
    result.add_argument("--threads", type=int, default=os.cpu_count(), help="torch threads (default: all cores)")
    result.add_argument("--json", type=Path, help="also write one JSON object to this file")
    return result


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table."""
    table = Table(title=title)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*(f"{x:.3g}" if isinstance(x, float) else str(x) for x in row))
    Console(width=120).print(table)


def save(path: Path | None, result: dict[str, Any]) -> None:
    """Write the result and the machine as one JSON object."""
    if path is not None:
        path.write_text(json.dumps(result | {"machine": machine()}, indent=2) + "\n")
