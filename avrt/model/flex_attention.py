"""The attention of a packed row as one FlexAttention call, for GPUs.

Scaled-dot-product attention needs the prompts' keys in front of every response's own, and a mask for them, which rules
out the flash kernels in that part. FlexAttention compiles a kernel for the packed row itself: nothing is copied or
padded, and blocks without visible entries are skipped. The results are equal up to rounding.

torch also runs it on the CPU, without a gradient. It has not been run on a GPU yet.

Shape letters: T tokens in the packed row, A query heads, K key/value heads, D head size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention


def flex_unavailable(device: str) -> str | None:
    """Why a kind of device cannot train with FlexAttention; None if it can."""
    if device == "cpu":
        return "flex has no gradient on the CPU"
    if device != "cuda":
        return f"flex is compiled for NVIDIA and AMD GPUs only, not for {device!r}"
    if find_spec("triton") is None:
        return "flex needs the package triton, which compiles its kernel"
    return None


def packed_block_mask(
    prompt_lengths: Sequence[int], response_lengths: Sequence[Sequence[int]], device: torch.device
) -> BlockMask:
    """The visible entries of a packed row (see `avrt.model.shared_prompt`) as a FlexAttention mask.

    Args:
        prompt_lengths: tokens of each prompt.
        response_lengths: for each prompt the tokens of its responses.
    """
    groups = [len(group) for group in response_lengths]
    # Response 0 is the prompt itself; all responses of the row are numbered from 1.
    first = accumulate(groups[:-1], initial=1)
    spans = [(i, 0, length) for i, length in enumerate(prompt_lengths)]
    spans += [
        (i, start + j, length)
        for i, (start, group) in enumerate(zip(first, response_lengths, strict=True))
        for j, length in enumerate(group)
    ]
    owners, numbers, lengths = (torch.tensor(column, device=device) for column in zip(*spans, strict=True))
    prompt_of, response_of = owners.repeat_interleave(lengths), numbers.repeat_interleave(lengths)

    def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        of_prompt = response_of[key] == 0
        own = response_of[key] == response_of[query]
        return (key <= query) & (prompt_of[key] == prompt_of[query]) & (of_prompt | own)

    tokens = prompt_of.shape[0]
    return _compiled(device.type, create_block_mask)(visible, None, None, tokens, tokens, device=device)


def flex_packed_attention(query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, scaling: float) -> Tensor:
    """Attention of ``[1, A, T, D]`` to ``[1, K, T, D]``: ``[1, T, A, D]``."""
    kernel = _compiled(query.device.type, flex_attention)
    out = kernel(query, key, value, block_mask=mask, scale=scaling, enable_gqa=query.shape[1] != key.shape[1])
    return out.transpose(1, 2)


@cache
def _compiled(device: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, compiled on GPUs, where its kernels never hold all scores; one compilation serves all lengths."""
    return torch.compile(function, dynamic=True) if device == "cuda" else function
