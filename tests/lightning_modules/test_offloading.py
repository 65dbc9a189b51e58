"""Whether an offloaded optimizer is pinned, and what a skipped step leaves behind."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from lightning_modules.offloading import drop_skipped_gradients, host_bytes
from lightning_modules.strategy import AVRTDeepSpeedStrategy

WEIGHTS = nn.ModuleList(
    [
        nn.Linear(100, 70, bias=False, dtype=torch.bfloat16),
        nn.Linear(100, 30, bias=False, dtype=torch.bfloat16),
        nn.Linear(5, 5).requires_grad_(False),
    ]
)
"""10,000 trained weights, the largest of them with 7,000 elements."""

NEEDED = 2 * (2 * 16_384 + 2 * 2500 * 4 + 8192 + 16_384)
"""Of 2 of 4 processes with 2,500 weights each. Pinned, in powers of two: masters and gradients of 10,000 bytes, new
weights of 5,000, the largest gradient of 14,000. Not pinned: two moments."""


LEAVES = 2 * (2 * 10_000 + 4 * 30)
"""Weights of both processes, which leave host memory before anything is pinned."""


class OnGPUs(AVRTDeepSpeedStrategy):
    """As on two machines of two GPUs each."""

    _on_cpu = False
    world_size = 4
    _module = SimpleNamespace(trainer=SimpleNamespace(accumulate_grad_batches=8))  # type: ignore[assignment]

    def __init__(self, others: bool = True, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.parallel_devices = [torch.device("cuda", 0), torch.device("cuda", 1)]
        assert isinstance(self.config, dict)
        self.config["bf16"] = {"enabled": True}
        self.others = others

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
        assert all
        return decision and self.others

    def configured(self) -> tuple[bool, str | None]:
        self._configure_gradients(WEIGHTS)  # type: ignore[arg-type]
        assert isinstance(self.config, dict)
        pinned = self.config["zero_optimization"]["offload_optimizer"]["pin_memory"]
        return pinned, self.config.get("data_types", {}).get("grad_accum_dtype")


def test_bytes_of_a_process() -> None:
    assert 2 * host_bytes(WEIGHTS, 4, 2, fp32_sums=True, accumulates=True) == NEEDED
    # Sums in host memory: 2,500 in bfloat16, a buffer for each weight.
    assert host_bytes(WEIGHTS, 4, 2, fp32_sums=False, accumulates=True) == NEEDED // 2 + 2 * 2500 * 2


@pytest.mark.parametrize(
    ("free", "others", "pinned"),
    [
        (int(NEEDED / 0.8) - LEAVES + 1, True, True),
        (int(NEEDED / 0.8) - LEAVES - 1, True, False),
        (10**12, False, False),
        (None, True, False),
    ],
)
def test_pinned_where_every_machine_has_the_memory(
    monkeypatch: pytest.MonkeyPatch, free: int | None, others: bool, pinned: bool
) -> None:
    monkeypatch.setattr("lightning_modules.strategy.available_memory", lambda: free)
    if pinned:
        assert OnGPUs(others).configured()[0]
        return
    with pytest.warns(UserWarning, match="pin_memory: true"):
        assert not OnGPUs(others).configured()[0]


@pytest.mark.parametrize("chosen", [True, False])
def test_a_choice_is_followed(monkeypatch: pytest.MonkeyPatch, chosen: bool) -> None:
    monkeypatch.setattr("lightning_modules.strategy.available_memory", lambda: 0)
    assert OnGPUs(pin_memory=chosen).configured()[0] is chosen


def test_nothing_is_pinned_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_modules.strategy.available_memory", lambda: 10**12)
    monkeypatch.setattr(OnGPUs, "_on_cpu", True)
    assert not OnGPUs().configured()[0]


def test_sums_of_stages_and_types(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_modules.strategy.available_memory", lambda: 10**12)
    assert OnGPUs().configured()[1] == "fp32"
    assert OnGPUs(grad_accum_dtype="bf16").configured()[1] == "bf16"
    assert OnGPUs(stage=1).configured()[1] is None
    float32 = OnGPUs(grad_accum_dtype="bf16")
    assert isinstance(float32.config, dict)
    float32.config["bf16"]["enabled"] = False
    assert float32.configured()[1] is None


def test_only_a_skipped_step_leaves_nothing() -> None:
    kept = {0: [torch.ones(1)]}
    for overflow, offload, left in ((True, True, {0: None}), (False, True, kept), (True, False, kept)):
        optimizer = SimpleNamespace(overflow=overflow, cpu_offload=offload, averaged_gradients=dict(kept))
        drop_skipped_gradients(optimizer)
        assert optimizer.averaged_gradients == left
