"""Host memory of an optimizer that DeepSpeed's ZeRO keeps there, for one process."""

from __future__ import annotations

from dataclasses import dataclass

FLOAT32 = 4

SHARE_OF_HOST = 0.8
"""Share of a host's free memory up to which an optimizer is pinned there; the rest is for data workers and files."""


@dataclass(frozen=True)
class OffloadedMemory:
    """Bytes of one process, read off DeepSpeed 0.19.8 (`stage_1_and_2.py`, `stage3.py`).

    Attributes:
        masters: weights in float32.
        gradients: of one optimizer step, in float32.
        moments: Adam's two, in float32; never pinned.
        weights: updated weights on their way to the device.
        largest: buffer for the largest gradient.
        sums: gradients of earlier micro-batches, where they are summed in host memory.
    """

    masters: int
    gradients: int
    moments: int
    weights: int
    largest: int
    sums: int

    @property
    def total(self) -> int:
        return self.masters + self.gradients + self.moments + self.weights + self.largest + self.sums


def offloaded_memory(
    trained: int, largest: int, width: int, devices: int, stage: int, fp32_sums: bool, accumulates: bool, pinned: bool
) -> OffloadedMemory:
    """Bytes of one process.

    Args:
        trained: elements of all trained weights, `largest` those of the largest one.
        width: bytes of an element in the model.
        devices: over which the optimizer is divided.
        stage: of ZeRO.
        fp32_sums: gradients are summed over micro-batches in float32 and not in the weights' type.
        accumulates: an optimizer step has more than one micro-batch.
        pinned: whether what crosses to the device is pinned: torch's allocator then rounds each buffer up to a power
            of two.
    """
    share = -(-trained // devices)

    def buffer(elements: int, size: int) -> int:
        return power_of_two(elements * size) if pinned else elements * size

    if stage == 3:
        sums = buffer(share, FLOAT32 if fp32_sums else width)
    elif accumulates and width < FLOAT32 and fp32_sums:
        sums = 0  # on the device
    else:
        # One buffer per weight: rounded up, twice the size at most.
        sums = share * width * (2 if pinned else 1) if accumulates else 0
    return OffloadedMemory(
        masters=buffer(share, FLOAT32),
        gradients=buffer(share, FLOAT32),
        moments=2 * share * FLOAT32,
        weights=buffer(share, width),
        largest=buffer(largest, width),
        sums=sums,
    )


def power_of_two(size: int) -> int:
    """The next power of two, as torch's allocator of pinned memory gives it."""
    return 1 << max(0, size - 1).bit_length()
