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
    size = shape.copy_bytes
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copied = per_second(2 * size / 1e9, lambda: target.copy_(source), device)
    yield {"what": "copy on the device, GB/s read and written", "value": copied}
    del source, target

    a = torch.randn(shape.matrix, shape.matrix, device=device).bfloat16()
    b = torch.randn(shape.matrix, shape.matrix, device=device).bfloat16()
    tflops = per_second(2 * shape.matrix**3 / 1e12, lambda: a @ b, device)
    yield {"what": "bfloat16 matrix product, TFLOP/s", "value": tflops}
    del a, b

    launch_us = 1e6 / per_second(LAUNCHES, _tiny_kernels(device), device)
    yield {"what": "one tiny kernel after another, us each", "value": launch_us, "hardware": {"launch_us": launch_us}}

    for name, pinned in (("link_gb", True), ("pageable_link_gb", False)):
        if pinned and device.type != "cuda":
            yield {"what": name, "skipped": "pinned memory needs a GPU"}
            continue
        host = torch.ones(size // 2, dtype=torch.uint8, pin_memory=pinned)
        there = torch.empty(size // 2, dtype=torch.uint8, device=device)
        down = per_second(size / 2e9, lambda h=host, t=there: t.copy_(h, non_blocking=True), device)  # type: ignore[misc]
        up = per_second(size / 2e9, lambda h=host, t=there: h.copy_(t, non_blocking=True), device)  # type: ignore[misc]
        yield {"what": f"{name}, host to device and back, GB/s", "value": down, "back": up}
        yield {"hardware": {name: min(down, up)}}
        del host, there

    # As the offloaded optimizer: several arrays are read and written, by all cores.
    host = torch.ones(size // 8)
    other = torch.ones(size // 8)
    bandwidth = per_second(3 * host.nbytes / 1e9, lambda: host.add_(other), torch.device("cpu"))
    yield {"what": "host memory, GB/s read and written", "value": bandwidth}
    yield {"hardware": {"host_bandwidth_gb": bandwidth}}


def _tiny_kernels(device: torch.device):  # type: ignore[no-untyped-def]
    x = torch.zeros(1, device=device)

    def work() -> None:
        for _ in range(LAUNCHES):
            x.add_(1.0)

    return work
