"""Matrix products of half-precision operands whose result is not rounded to half precision.

Logits and attention scores are large and differ by little. bfloat16 has 8 bits and rounds a logit of 20 by up to 0.06,
differently wherever a kernel adds up in another order. GPUs add up in float32 anyway; these products keep the result.

Operands of float32 or float64 are multiplied as they are. Autocast plays no part: callers choose the operands' type.
No gradient flows on GPUs; the callers compute theirs.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor

CHUNK_ELEMENTS = 2**24
"""Elements of an operand that are held in float32 at once where the device has no such product: 64 MB."""

HALF = (torch.bfloat16, torch.float16)


def wide_mm(a: Tensor, b: Tensor) -> Tensor:
    """``[m, k] @ [k, n]`` in float32 at least: ``[m, n]``; both operands have the same type."""
    with _without_autocast(a.device.type):
        if a.dtype not in HALF:
            return a @ b
        if _has_wide_products(a.device.type):
            return torch.mm(a, b, out_dtype=torch.float32)
        if a.numel() > b.numel():
            return _mm_by_rows(a, b.float())
        return _mm_by_rows(b.T, a.float().T).T


def wide_bmm(a: Tensor, b: Tensor) -> Tensor:
    """``[*, m, k] @ [*, k, n]`` with equal leading sizes, in float32 at least: ``[*, m, n]``."""
    with _without_autocast(a.device.type):
        if a.dtype not in HALF:
            return a @ b
        if _has_wide_products(a.device.type):
            out = torch.bmm(a.flatten(0, -3), b.flatten(0, -3), out_dtype=torch.float32)
            return out.unflatten(0, a.shape[:-2])
        return a.float() @ b.float()


def _mm_by_rows(a: Tensor, b: Tensor) -> Tensor:
    """Half precision ``[m, k]`` times float32 ``[k, n]``, converted a few rows at a time."""
    rows = max(1, CHUNK_ELEMENTS // a.shape[1])
    if a.shape[0] <= rows:
        return a.float() @ b
    return torch.cat([part.float() @ b for part in a.split(rows)])


def _without_autocast(device: str) -> AbstractContextManager[Any]:
    # Leaving a block of autocast, even of one that is off, may drop its converted weights.
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


@cache
def _has_wide_products(device: str) -> bool:
    """Whether torch multiplies half precision to float32 on a kind of device: NVIDIA GPUs."""
    return device == "cuda" and torch.version.hip is None and "dtype" in torch.ops.aten.mm.overloads()
