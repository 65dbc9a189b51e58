"""Log-probability and entropy of given tokens, without holding the logits of all rows.

The language-model head maps M hidden states to an [M, V] matrix of logits; with V = 152,064 and a few thousand response
tokens it is the largest tensor of a training step, and only two numbers per row are needed from it. Here the head runs
over chunks of rows; each chunk's logits are reduced immediately and recomputed in the backward pass.

Shape letters: M rows (response tokens), H hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from avrt.model.wide_products import wide_mm

DEFAULT_CHUNK_ROWS = 128

FEW_ROWS = 32
"""Up to this many rows (as in a decoding step) the CPU multiplies with the head on the left."""


def chunked_logprobs(
    hidden: Tensor,
    head_weight: Tensor,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    banned: Tensor | None = None,
    chunk_rows: int = DEFAULT_CHUNK_ROWS,
) -> tuple[Tensor, Tensor]:
    """log p(target) and entropy of ``softmax(hidden @ head_weight.T / temperature)``, row by row.

    Args:
        hidden: ``[M, H]``.
        head_weight: ``[V, H]`` weight of the language-model head (it has no bias).
        targets: ``[M]`` token ids.
        temperature: the sampling temperature; log-probabilities are those of the sampling distribution.
        banned: bool ``[V]``, tokens that can never be sampled; their probability is exactly 0.
        chunk_rows: rows whose logits are held at once; 0 holds all rows (only time and memory differ).

    Returns:
        log-probabilities ``[M]`` (differentiable) and entropies in nats ``[M]`` (not differentiable), both float32, or
        float64 when `hidden` is. Under autocast the head's operands have autocast's type, as in any linear layer; the
        logits are never rounded to half precision.
    """
    if chunk_rows < 0:
        raise ValueError(f"chunk_rows must be 0 (no chunks) or positive, got {chunk_rows}")
    # The backward pass runs outside of autocast and must reproduce the logits of the forward pass.
    hidden, head_weight = head_operand(hidden), head_operand(head_weight)
    rows = chunk_rows or max(1, hidden.shape[0])
    return _ChunkedLogprobs.apply(hidden, head_weight, targets, temperature, banned, rows)


def head_operand(x: Tensor) -> Tensor:
    """Hidden states or the head's weight in the type in which the head multiplies: autocast's if it is on."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x


def chunk_logits(hidden: Tensor, head_weight: Tensor, temperature: float, banned: Tensor | None) -> Tensor:
    """Logits of a few rows at the sampling temperature, banned tokens at -inf; at least float32. ``[m, V]``.

    Operands have the same type, see `head_operand`. The result is a new tensor that the caller may overwrite.
    """
    # For a few rows, the CPU's matrix product takes half the time with the tall matrix on the left.
    few = hidden.shape[0] <= FEW_ROWS and hidden.device.type == "cpu"
    logits = wide_mm(head_weight, hidden.T).T.contiguous() if few else wide_mm(hidden, head_weight.T)
    if temperature != 1.0:
        logits.div_(temperature)
    if banned is not None:
        logits.masked_fill_(banned, -torch.inf)
    return logits


class _ChunkedLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head_weight: Tensor,
        targets: Tensor,
        temperature: float,
        banned: Tensor | None,
        rows: int,
    ) -> tuple[Tensor, Tensor]:
        dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        logprobs = torch.empty(hidden.shape[0], dtype=dtype, device=hidden.device)
        entropies = torch.empty_like(logprobs)
        normalizers = torch.empty_like(logprobs)
        for start in range(0, hidden.shape[0], rows):
            part = slice(start, start + rows)
            logits = chunk_logits(hidden[part], head_weight, temperature, banned)
            top = logits.amax(-1, keepdim=True)
            logits.sub_(top)
            chosen = logits.gather(-1, targets[part, None]).squeeze(-1)
            weights = logits.exp()
            total = weights.sum(-1)
            log_total = total.log()
            logprobs[part] = chosen - log_total
            normalizers[part] = log_total + top.squeeze(-1)
            # H = -sum p log p; a banned token has p = 0 and log p = -inf, which must count as 0, not as nan.
            if banned is not None:
                logits.masked_fill_(banned, 0.0)
            entropies[part] = log_total - weights.mul_(logits).sum(-1) / total
            del logits, weights  # else they would be held together with the next chunk's
        ctx.save_for_backward(hidden, head_weight, targets, normalizers)
        ctx.temperature, ctx.banned, ctx.rows = temperature, banned, rows
        ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logprobs: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden, head_weight, targets, normalizers = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        # Chunks add up in at least float32: a bfloat16 sum over many chunks would lose the small ones.
        wide = torch.promote_types(head_weight.dtype, torch.float32)
        grad_weight = torch.zeros_like(head_weight, dtype=wide) if ctx.needs_input_grad[1] else None
        for start in range(0, hidden.shape[0], ctx.rows):
            part = slice(start, start + ctx.rows)
            logits = chunk_logits(hidden[part], head_weight, ctx.temperature, ctx.banned)
            # d log p(target) / d logit_v = [v = target] - p_v
            grad = logits.sub_(normalizers[part, None]).exp_().neg_()
            grad.scatter_add_(-1, targets[part, None], torch.ones_like(grad[:, :1]))
            grad.mul_(grad_logprobs[part, None] / ctx.temperature)
            grad = grad.to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden[part] = grad @ head_weight
            if grad_weight is not None:
                if wide == grad.dtype:
                    grad_weight.addmm_(grad.T, hidden[part])  # without a second matrix of the head's size
                else:
                    grad_weight += grad.T @ hidden[part]
            del logits, grad
        if grad_weight is not None:
            grad_weight = grad_weight.to(head_weight.dtype)
        return grad_hidden, grad_weight, None, None, None, None
