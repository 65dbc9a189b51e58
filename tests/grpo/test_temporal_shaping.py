"""Weights over the position in the response, by hand and in the loss; TRL's loss takes token advantages as well."""

from __future__ import annotations

import math

import pytest
import torch

from avrt.grpo.loss import LossConfig, grpo_loss
from avrt.grpo.temporal_shaping import temporal_weights
from tests.grpo.test_loss import LOSS_TYPES, loss_and_gradient, tensors, totals
from tests.parity.trl_oracle import trl_loss

LAMBDA = 0.3
MAX_LENGTH = 10


def test_weights_by_hand() -> None:
    """t / (L - 1) is 0, 1/4, 1/2, 3/4, 1; then 0, 1/2, 1; 0, 1; and 0 for a response of one token."""
    mask = torch.arange(5) < torch.tensor([[5], [3], [2], [1], [0]])
    expected = [
        [1.3, 1.075, 1.0, 1.075, 1.3],
        [1.3, 1.0, 1.3, 0, 0],
        [1.3, 1.3, 0, 0, 0],
        [1.3, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]
    torch.testing.assert_close(temporal_weights(mask, LAMBDA), torch.tensor(expected, dtype=torch.float64))


def test_loss_by_hand() -> None:
    """Three tokens with ratios 1.5 (clipped to 1.2, as A > 0), 0.5, 1, and A = 2; weights 1.3, 1, 1.3.

    The KL term of every token is 0.5 · (exp(-ln 2) + ln 2 - 1), without a weight.
    """
    logprobs = torch.tensor([[1.5, 0.5, 1.0, 9.0]], dtype=torch.float64).log()
    config = LossConfig(beta=0.5, tas_lambda=LAMBDA)
    mask = torch.tensor([[True, True, True, False]])
    out = grpo_loss(
        logprobs,
        mask,
        torch.tensor([2.0], dtype=torch.float64),
        config,
        totals(mask),
        torch.zeros_like(logprobs),
        logprobs - math.log(2),
    )
    kl = 0.5 + math.log(2) - 1
    assert float(out.loss) == pytest.approx(-(1.3 * 2.4 + 1.0 + 1.3 * 2.0) / 3 + 0.5 * kl, rel=1e-12)


@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_shaped_advantages_are_token_advantages(loss_type: str, beta: float) -> None:
    """TRL's loss with advantages ``[N, C]`` of w_t A_i: same loss, gradient and clip ratios, for every reduction."""
    config = LossConfig(type=loss_type, beta=beta, tas_lambda=LAMBDA)
    batch = tensors()
    ours, gradient = loss_and_gradient(batch, config, totals(batch["mask"]))
    last = (batch["mask"].sum(1, keepdim=True) - 1).clamp(min=1).double()
    shaped = batch["advantages"][:, None] * (1 + LAMBDA * (2 * torch.arange(batch["mask"].shape[1]) / last - 1) ** 2)
    logprobs = batch["logprobs"].clone().requires_grad_()
    arguments = (batch["old_logprobs"], batch["ref_logprobs"] if beta else None, batch["entropies"])
    theirs, metrics = trl_loss(logprobs, batch["mask"], shaped, config, MAX_LENGTH, *arguments)
    torch.testing.assert_close(ours, theirs.detach(), rtol=0, atol=1e-10)
    torch.testing.assert_close(gradient, torch.autograd.grad(theirs, logprobs)[0], rtol=0, atol=1e-10)
    sums = grpo_loss(**batch, config=config, normalizer=totals(batch["mask"])).sums
    for name in ("clip_ratio/low_mean", "clip_ratio/high_mean"):
        assert float(sums[name][0] / sums[name][1]) == pytest.approx(metrics[name], abs=1e-6)


def test_sequence_ratios_are_refused() -> None:
    with pytest.raises(ValueError, match=r"tas_lambda .* importance_sampling_level"):
        LossConfig(tas_lambda=LAMBDA, importance_sampling_level="sequence")
    with pytest.raises(ValueError, match=r"scale_rewards none .* normalize_then_sum"):
        LossConfig(scale_rewards="none", multi_objective_aggregation="normalize_then_sum")
