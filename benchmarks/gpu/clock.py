"""Seconds and peak memory of work on a device."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

GIB = 2**30


@dataclass(frozen=True)
class Measured:
    """What one call took.

    Attributes:
        result: what it returned.
        seconds: until the device had finished.
        peak: the most bytes that torch's allocator held during the call, all that was there before included; None on
            the CPU, which has no such counter.
    """

    result: Any
    seconds: float
    peak: int | None

    @property
    def peak_gib(self) -> float | None:
        return None if self.peak is None else self.peak / GIB


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(device: torch.device, work: Callable[[], Any]) -> Measured:
    """Run `work` once."""
    synchronize(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    start = time.perf_counter()
    result = work()
    synchronize(device)
    seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return Measured(result, seconds, peak)


def in_use(device: torch.device) -> int | None:
    """Bytes of all tensors on the device now."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else None


def free(device: torch.device) -> None:
    """Return cached memory to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def per_second(count: float, work: Callable[[], Any], device: torch.device, least: float = 0.2) -> float:
    """`count` per second of repeated calls over at least so many seconds, after one call that does not count."""
    work()
    runs, seconds = 1, 0.0
    while True:
        measured = measure(device, lambda runs=runs: [work() for _ in range(runs)] and None)  # type: ignore[misc]
        seconds = measured.seconds
        if seconds >= least or runs >= 1 << 16:
            return count * runs / seconds
        runs *= max(2, int(1.2 * least / max(seconds, 1e-9))) if seconds < least / 2 else 2
