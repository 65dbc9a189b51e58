"""The attention of packed rows: how masks lie in memory, and what FlexAttention needs."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from avrt.model import flex_attention, shared_prompt
from avrt.model.flex_attention import flex_unavailable, packed_block_mask
from avrt.model.shared_prompt import PackedLayout

HEADS, KV_HEADS, SIZE = 6, 2, 8
ROWS = [
    ([7, 12], [[3, 5], [2]]),  # prompts of several lengths: a mask per response
    ([9], [[4, 6, 1]]),  # one mask for all
    ([9, 9], [[23], [4, 0]]),
    ([11], [[5, 5]]),  # 16 keys, which need no padding
]


def attention(layout: PackedLayout) -> list[Tensor]:
    """Result and gradients of two layers."""
    g = torch.Generator().manual_seed(0)
    shapes = [(1, heads, layout.num_tokens, SIZE) for heads in (HEADS, KV_HEADS, KV_HEADS)]
    q, k, v = (torch.randn(shape, generator=g, dtype=torch.float64, requires_grad=True) for shape in shapes)
    out = layout.attend(q, k, v, 0.3, 0) + layout.attend(q, k, v, 0.2, 1)
    (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
    return [out.detach(), q.grad, k.grad, v.grad]  # type: ignore[list-item]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_aligned_masks_change_nothing(row: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    aligned = attention(PackedLayout(*row))
    monkeypatch.setattr(shared_prompt, "MASK_ALIGNMENT", 1)
    for ours, plain in zip(aligned, attention(PackedLayout(*row)), strict=True):
        torch.testing.assert_close(ours, plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_kernels_take_the_mask_as_it_is(row: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch copies a mask for the memory-efficient kernel unless all but its last stride are multiples of 8."""
    masks: list[Tensor] = []
    kernel = F.scaled_dot_product_attention

    def seen(*args: Any, attn_mask: Tensor | None = None, **settings: Any) -> Tensor:
        if attn_mask is not None:
            masks.append(attn_mask)
        return kernel(*args, attn_mask=attn_mask, **settings)

    monkeypatch.setattr(F, "scaled_dot_product_attention", seen)
    attention(PackedLayout(*row))
    assert len(masks) == 2
    assert len({mask.data_ptr() for mask in masks}) == 1, "one mask for all layers"
    for mask in masks:
        assert mask.stride(-1) == 1
        assert all(stride % 16 == 0 for stride in mask.stride()[:-1])


def test_one_compilation_of_the_mask_serves_all_rows() -> None:
    """As on GPUs, where every other length would otherwise compile again."""
    counter = CompileCounter()
    compiled = torch.compile(flex_attention.create_block_mask, dynamic=True, backend=counter)
    with mock.patch.object(flex_attention, "_compiled", return_value=compiled):
        for length in range(40, 100, 7):
            mask = packed_block_mask([length, 2 * length], [[5, 9], [length]], torch.device("cpu"))
            assert mask.shape[-1] == 4 * length + 14
    assert 1 <= counter.frame_count <= 2


def test_where_flex_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "CPU" in str(flex_unavailable("cpu"))
    assert "mps" in str(flex_unavailable("mps"))
    monkeypatch.setattr(flex_attention, "find_spec", lambda name: None)
    assert "triton" in str(flex_unavailable("cuda"))
    monkeypatch.setattr(flex_attention, "find_spec", lambda name: name)
    assert flex_unavailable("cuda") is None


def test_kernels_that_plan_every_shape_are_off() -> None:
    """On recent GPUs torch prefers cuDNN, which would plan anew for the lengths of every micro-batch."""
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert torch.backends.cuda.flash_sdp_enabled()
    assert torch.backends.cuda.mem_efficient_sdp_enabled()
