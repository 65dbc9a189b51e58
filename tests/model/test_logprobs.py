"""Chunked log-probabilities against log_softmax, values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from avrt.model.chunked_logprobs import chunked_logprobs

ROWS, HIDDEN, VOCABULARY = 13, 8, 29


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(ROWS, HIDDEN, generator=g, dtype=torch.float64).to(dtype)
    weight = torch.randn(VOCABULARY, HIDDEN, generator=g, dtype=torch.float64).to(dtype)
    return hidden.requires_grad_(), weight.requires_grad_(), torch.randint(0, 20, (ROWS,), generator=g)


def plain(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, banned: Tensor | None
) -> tuple[Tensor, Tensor]:
    logits = hidden @ weight.T / temperature
    kept = torch.arange(VOCABULARY) if banned is None else (~banned).nonzero().squeeze(1)
    logp = logits[:, kept].log_softmax(-1)
    where = (kept == targets[:, None]).int().argmax(-1)
    return logp.gather(1, where[:, None]).squeeze(1), -(logp.exp() * logp).sum(-1)


@pytest.mark.parametrize("chunk_rows", [0, 1, 7, 13, 256])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("ban", [False, True])
def test_values_and_gradients(chunk_rows: int, temperature: float, ban: bool) -> None:
    hidden, weight, targets = inputs()
    banned = torch.arange(VOCABULARY) >= 20 if ban else None
    upstream = torch.linspace(-1, 1, ROWS, dtype=torch.float64)
    logp, entropy = plain(hidden, weight, targets, temperature, banned)
    expected = torch.autograd.grad((logp * upstream).sum(), [hidden, weight])
    ours, our_entropy = chunked_logprobs(
        hidden, weight, targets, temperature=temperature, banned=banned, chunk_rows=chunk_rows
    )
    torch.testing.assert_close(ours, logp, rtol=0, atol=1e-12)
    torch.testing.assert_close(our_entropy, entropy, rtol=0, atol=1e-12)
    assert not our_entropy.requires_grad
    for a, b in zip(torch.autograd.grad((ours * upstream).sum(), [hidden, weight]), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_numerical_gradient() -> None:
    hidden, weight, targets = inputs()
    banned = torch.arange(VOCABULARY) >= 20
    assert torch.autograd.gradcheck(
        lambda h, w: chunked_logprobs(h, w, targets, temperature=0.7, banned=banned, chunk_rows=5)[0], (hidden, weight)
    )


def test_half_precision_is_reduced_in_single() -> None:
    """Not even the logits are rounded to half precision."""
    hidden, weight, targets = inputs(torch.bfloat16)
    logp, entropy = chunked_logprobs(hidden, weight, targets, chunk_rows=4)
    assert (logp.dtype, entropy.dtype) == (torch.float32, torch.float32)
    expected, expected_entropy = plain(hidden.double(), weight.double(), targets, 1.0, None)
    torch.testing.assert_close(logp.double(), expected, rtol=0, atol=3e-6)
    torch.testing.assert_close(entropy.double(), expected_entropy, rtol=0, atol=3e-6)
    wanted = torch.autograd.grad(expected.sum(), [hidden, weight])
    logp.sum().backward()
    for gradient, true in zip((hidden.grad, weight.grad), wanted, strict=True):
        assert gradient.dtype == torch.bfloat16
        assert (gradient.double() - true).norm() < 4e-3 * true.norm()


def test_gradients_under_autocast_are_those_of_the_rounded_operands() -> None:
    """The backward pass runs outside of autocast but uses the operands that the forward pass has rounded."""
    hidden, weight, targets = inputs(torch.float32)
    upstream = torch.linspace(-1, 1, ROWS)
    with torch.autocast("cpu", torch.bfloat16):
        logp, _ = chunked_logprobs(hidden, weight, targets, chunk_rows=4)
    expected, _ = plain(hidden.bfloat16().double(), weight.bfloat16().double(), targets, 1.0, None)
    torch.testing.assert_close(logp.double(), expected, rtol=0, atol=3e-6)
    gradients, wanted = (torch.autograd.grad((x * upstream).sum(), [hidden, weight]) for x in (logp, expected))
    for gradient, true in zip(gradients, wanted, strict=True):
        assert gradient.dtype == torch.float32
        assert (gradient - true).norm() < 4e-3 * true.norm()


def test_only_one_side_needs_a_gradient() -> None:
    hidden, weight, targets = inputs()
    chunked_logprobs(hidden.detach(), weight, targets)[0].sum().backward()
    assert weight.grad is not None
    chunked_logprobs(hidden, weight.detach(), targets)[0].sum().backward()
    assert hidden.grad is not None


def test_large_logits_stay_finite() -> None:
    hidden, weight, targets = inputs()
    logp, entropy = chunked_logprobs(hidden.detach() * 1e4, weight.detach(), targets)
    assert logp.isfinite().all()
    assert entropy.isfinite().all()
    assert (entropy >= 0).all()


def test_negative_chunks_are_refused() -> None:
    hidden, weight, targets = inputs()
    with pytest.raises(ValueError, match="chunk_rows"):
        chunked_logprobs(hidden, weight, targets, chunk_rows=-1)
