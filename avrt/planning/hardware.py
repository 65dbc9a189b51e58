"""Hardware that time is computed for: assumptions, and what `benchmarks.gpu` has measured in their place."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from avrt.config.errors import UsageError

SCHEMA = 1
"""Version of the files that `benchmarks.gpu` writes."""


@dataclass(frozen=True)
class Hardware:
    """Assumptions: an H100's data sheet, the share of it that is reached, and a PCIe 5 link.

    Attributes:
        peak_tflops: dense bfloat16 TFLOP/s of one device.
        efficiency: share of the peak that training and scoring reach.
        bandwidth_gb: memory bandwidth of one device, GB/s.
        bandwidth_efficiency: share of that bandwidth that decoding reaches.
        launch_us: time to launch a kernel, microseconds.
        host_bandwidth_gb: memory bandwidth of one machine, for the offloaded optimizer, GB/s.
        link_gb, pageable_link_gb: bandwidth one way between one device and pinned or other memory of its host, GB/s.
        overhead_bytes: memory of a device that tensors cannot use: the driver's context, and what the allocator cannot
            reuse.
        measured: names of the attributes that are measured.
        device: the measured device.
    """

    peak_tflops: float = 989.0
    efficiency: float = 0.35
    bandwidth_gb: float = 3350.0
    bandwidth_efficiency: float = 0.6
    launch_us: float = 7.5
    host_bandwidth_gb: float = 200.0
    link_gb: float = 25.0
    pageable_link_gb: float = 6.0
    overhead_bytes: int = 2 * 2**30
    measured: tuple[str, ...] = ()
    device: str | None = None

    @property
    def flops(self) -> float:
        """FLOP/s of one device that training and scoring reach."""
        return self.peak_tflops * 1e12 * self.efficiency

    @property
    def decoding_bandwidth(self) -> float:
        """Bytes per second of one device's memory that decoding reaches."""
        return self.bandwidth_gb * 1e9 * self.bandwidth_efficiency

    def transfer(self, moved: float, pinned: bool) -> float:
        """Seconds to move so many bytes between one device and its host."""
        return moved / ((self.link_gb if pinned else self.pageable_link_gb) * 1e9)


MEASUREMENTS: dict[str, tuple[str, dict[str, float]]] = {
    "achieved_tflops": ("peak_tflops", {"efficiency": 1.0}),
    "decoding_bandwidth_gb": ("bandwidth_gb", {"bandwidth_efficiency": 1.0}),
    "launch_us": ("launch_us", {}),
    "link_gb": ("link_gb", {}),
    "pageable_link_gb": ("pageable_link_gb", {}),
    "host_bandwidth_gb": ("host_bandwidth_gb", {}),
    "overhead_bytes": ("overhead_bytes", {}),
}
"""Keys of a file's `hardware`, with the attribute that each one replaces and the shares that it makes 1."""


RANGES = {
    "achieved_tflops": (1.0, 1e5),
    "decoding_bandwidth_gb": (10.0, 1e6),
    "launch_us": (0.1, 1e4),
    "link_gb": (0.1, 1e4),
    "pageable_link_gb": (0.05, 1e4),
    "host_bandwidth_gb": (1.0, 1e5),
    "overhead_bytes": (1, 2**37),
}
"""Values that a GPU and its host can have: anything else comes from another kind of file."""

PAIRS = (("peak_tflops", "efficiency"), ("bandwidth_gb", "bandwidth_efficiency"))
"""A speed of the data sheet and the share of it that is reached; a measured speed has share 1."""


def override(hardware: Hardware, given: dict[str, float]) -> Hardware:
    """The hardware with values that the user states. Of a pair, the other one is then assumed, not measured."""
    for pair in PAIRS:
        if any(name in given for name in pair):
            given = {name: getattr(Hardware, name) for name in pair} | given
    measured = tuple(name for name in hardware.measured if name not in given)
    changes: dict[str, Any] = dict(given)
    return replace(hardware, **changes, measured=measured)


def read_measured(file: str | Path, assumed: Hardware | None = None) -> Hardware:
    """The assumptions, with those replaced that a file of `benchmarks.gpu` has measured.

    Raises:
        UsageError: the file cannot be read, is not of `benchmarks.gpu`, or has a number that is not positive.
    """
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--measured {file}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"--measured {file}: is not valid JSON ({error}); give the file of benchmarks.gpu") from error
    if not isinstance(content, dict) or not isinstance(content.get("hardware"), dict) or "schema" not in content:
        raise UsageError(
            f"--measured {file}: has no 'schema' and 'hardware', so it is not a file of benchmarks.gpu; make one with "
            "python -m benchmarks.gpu"
        )
    if content["schema"] is True or content["schema"] != SCHEMA:
        raise UsageError(
            f"--measured {file}: is of schema {content['schema']!r}, this version reads {SCHEMA}; measure again"
        )
    device = content.get("device")
    device = device if isinstance(device, dict) else {}
    if device.get("miniature") or not device.get("cuda_available", True):
        raise UsageError(f"--measured {file}: was made without a GPU, so its numbers mean nothing; make one with a GPU")
    changes: dict[str, Any] = {}
    measured: list[str] = []
    if not content["hardware"]:
        raise UsageError(f"--measured {file}: hardware is empty, nothing was measured; run benchmarks.gpu to its end")
    for key, value in content["hardware"].items():
        if key not in MEASUREMENTS:
            raise UsageError(
                f"--measured {file}: hardware.{key} is not known; known are {', '.join(MEASUREMENTS)}. Remove it"
            )
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        low, high = RANGES[key]
        if not number or not low <= value <= high:
            shown = f"{value!r:.40}"
            raise UsageError(
                f"--measured {file}: hardware.{key} must be a number from {low:g} to {high:g}, got {shown}"
            )
        attribute, shares = MEASUREMENTS[key]
        changes |= {attribute: int(value) if key == "overhead_bytes" else float(value), **shares}
        measured.append(attribute)
    name = str(device.get("name") or "an unnamed device")
    return replace(assumed or Hardware(), **changes, measured=tuple(measured), device=name)
