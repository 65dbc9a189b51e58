"""Host memory of an offloaded optimizer, worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from avrt.model.offloaded_memory import OffloadedMemory, offloaded_memory, power_of_two

SHARE = OffloadedMemory(masters=1000, gradients=1000, moments=2000, weights=500, largest=200, sums=0)
"""1,000 trained weights in bfloat16, the largest of them 100, on 4 devices: 250 each, 4 bytes in float32, 2 else."""


def share(stage: int = 2, fp32: bool = True, accumulates: bool = True, pinned: bool = False) -> OffloadedMemory:
    return offloaded_memory(1000, 100, 2, 4, stage, fp32, accumulates, pinned)


def test_sums_on_the_device() -> None:
    assert share() == SHARE
    assert SHARE.total == 4700


def test_sums_in_host_memory() -> None:
    assert share(fp32=False) == replace(SHARE, sums=250 * 2)
    assert share(fp32=False, accumulates=False) == SHARE
    # Weights of float32 have no other type to sum in: DeepSpeed sums them in host memory.
    assert offloaded_memory(1000, 100, 4, 4, 2, True, True, False).sums == 250 * 4


def test_zero3_always_sums_in_host_memory() -> None:
    assert share(stage=3).sums == 250 * 4
    assert share(stage=3, fp32=False, accumulates=False).sums == 250 * 2


def test_pinned_buffers_are_powers_of_two() -> None:
    expected = OffloadedMemory(masters=1024, gradients=1024, moments=2000, weights=512, largest=256, sums=0)
    assert share(pinned=True) == expected
    assert share(fp32=False, pinned=True) == replace(expected, sums=2 * 250 * 2)


def test_a_share_is_rounded_up() -> None:
    assert offloaded_memory(10, 1, 2, 4, 2, True, True, False).masters == 3 * 4


@pytest.mark.parametrize(("size", "rounded"), [(1, 1), (2, 2), (3, 4), (1024, 1024), (1025, 2048), (0, 1)])
def test_powers_of_two(size: int, rounded: int) -> None:
    assert power_of_two(size) == rounded
