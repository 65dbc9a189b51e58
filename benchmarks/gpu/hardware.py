"""What the machine reaches: arithmetic, memory bandwidth, kernel launches, and transfers between host and device."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.gpu.clock import per_second
from benchmarks.gpu.shapes import Row, Shape

LAUNCHES = 1000


def run(shape: Shape, device: torch.device) -> Iterator[Row]:
    """Rows of one figure each, and those that `plan` reads as `hardware`.

    The GPU's copy and matrix product are ceilings. What decoding and training reach of them is measured by the parts
    ``decoding`` and ``phases``.
    """
    copied = device_bandwidth(shape.copy_bytes, device) / 1e9
    yield {"what": "copy on the device, GB/s read and written", "value": copied}
    yield {"what": "bfloat16 matrix product, TFLOP/s", "value": _matrix_product(shape.matrix, device) / 1e12}
    # A bound. What `plan` calls `launch_us` is of the model's own steps, with Python between kernels: part `decoding`.
    yield {"what": "one tiny kernel after another, us each", "value": 1e6 * seconds_per_launch(device)}
    for name, pinned in (("link_gb", True), ("pageable_link_gb", False)):
        if pinned and device.type != "cuda":
            yield {"what": name, "skipped": "pinned memory needs a GPU"}
            continue
        down, up = _link(shape.copy_bytes // 2, device, pinned)
        yield {"what": f"{name}, host to device and back, GB/s", "value": down / 1e9, "back": up / 1e9}
        yield {"hardware": {name: min(down, up) / 1e9}}
    bandwidth = _host_bandwidth(shape.copy_bytes // 2) / 1e9
    yield {"what": "host memory, GB/s read and written", "value": bandwidth}
    yield {"hardware": {"host_bandwidth_gb": bandwidth}}


def device_bandwidth(size: int, device: torch.device) -> float:
    """Bytes per second that a copy on the device reads and writes."""
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return per_second(2 * size, lambda: target.copy_(source), device)


def seconds_per_launch(device: torch.device) -> float:
    """Of kernels that do nothing, launched from Python one after another."""
    x = torch.zeros(1, device=device)

    def work() -> None:
        for _ in range(LAUNCHES):
            x.add_(1.0)

    return 1 / per_second(LAUNCHES, work, device)


def _matrix_product(side: int, device: torch.device) -> float:
    """FLOP per second; random numbers, since zeros draw less power and run faster."""
    a, b = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))
    return per_second(2 * side**3, lambda: a @ b, device)


def _link(size: int, device: torch.device, pinned: bool) -> tuple[float, float]:
    """Bytes per second from host to device and back."""
    host = torch.ones(size, dtype=torch.uint8, pin_memory=pinned)
    there = torch.empty(size, dtype=torch.uint8, device=device)
    down = per_second(size, lambda: there.copy_(host, non_blocking=pinned), device)
    return down, per_second(size, lambda: host.copy_(there, non_blocking=pinned), device)


def _host_bandwidth(size: int) -> float:
    """Bytes per second that all cores read and write, one array added to another."""
    host, other = torch.ones(size // 4), torch.ones(size // 4)
    return per_second(3 * host.nbytes, lambda: host.add_(other), torch.device("cpu"))
