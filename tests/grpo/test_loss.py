"""The objective by hand, and what must not change it: cutting, permuting, padding. (TRL's numbers: tests/parity.)"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from avrt.grpo.loss import LossConfig, Normalizer, grpo_loss

EXACT = {"rtol": 0.0, "atol": 1e-10}
MAX_LENGTH = 10
LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo")
CONFIGS = [
    LossConfig(type=loss_type, beta=beta, importance_sampling_level=level)
    for loss_type, beta, level in itertools.product(LOSS_TYPES, (0.0, 0.04), ("token", "sequence"))
]


def tensors(responses: int = 8, longest: int = 6, seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (responses,), generator=g)
    lengths[0] = longest
    old = -torch.rand(responses, longest, dtype=torch.float64, generator=g)
    noise = torch.randn(3, responses, longest, dtype=torch.float64, generator=g)
    return {
        "logprobs": old + 0.4 * noise[0],
        "mask": torch.arange(longest) < lengths[:, None],
        "advantages": torch.randn(responses, dtype=torch.float64, generator=g),
        "old_logprobs": old,
        "ref_logprobs": old + 0.2 * noise[1],
        "entropies": noise[2].abs(),
    }


def totals(mask: Tensor) -> Normalizer:
    return Normalizer(len(mask), int(mask.sum()), float(mask.sum()), MAX_LENGTH)


def loss_and_gradient(batch: dict[str, Tensor], config: LossConfig, normalizer: Normalizer) -> tuple[Tensor, Tensor]:
    logprobs = batch["logprobs"].clone().requires_grad_()
    out = grpo_loss(**{**batch, "logprobs": logprobs}, config=config, normalizer=normalizer)
    (gradient,) = torch.autograd.grad(out.loss, logprobs)
    return out.loss.detach(), gradient


def test_by_hand() -> None:
    """Two responses of 2 and 1 tokens, advantages +1 and -2, ε = 0.2, β = 0.5.

    Ratios: 1.5 (clipped to 1.2, as A > 0), 0.9; and 1.1. References above the policy by ln 2 and 0; by -ln 2.
    """
    ln2 = math.log(2)
    logprobs = torch.tensor([[math.log(0.3), math.log(0.9)], [math.log(0.55), 7.0]], dtype=torch.float64)
    batch = {
        "logprobs": logprobs,
        "mask": torch.tensor([[True, True], [True, False]]),
        "advantages": torch.tensor([1.0, -2.0], dtype=torch.float64),
        "old_logprobs": torch.tensor([[math.log(0.2), 0.0], [math.log(0.5), -3.0]], dtype=torch.float64),
        "ref_logprobs": logprobs + torch.tensor([[ln2, 0.0], [-ln2, 5.0]], dtype=torch.float64),
    }
    kl = [2 - ln2 - 1, 0.0, 0.5 + ln2 - 1]  # exp(d) - d - 1
    losses = [-1.2 + 0.5 * kl[0], -0.9, 2.2 + 0.5 * kl[2]]
    expected = {
        "grpo": ((losses[0] + losses[1]) / 2 + losses[2]) / 2,
        "bnpo": sum(losses) / 3,
        "dapo": sum(losses) / 3,
        "dr_grpo": sum(losses) / (2 * MAX_LENGTH),
    }
    for loss_type, value in expected.items():
        config = LossConfig(type=loss_type, beta=0.5)
        out = grpo_loss(**batch, config=config, normalizer=totals(batch["mask"]))
        assert float(out.loss) == pytest.approx(value, rel=1e-12), loss_type
    metrics = {name: float(total / weight) for name, (total, weight) in out.sums.items()}
    assert metrics["kl"] == pytest.approx(sum(kl) / 3, rel=1e-12)
    assert metrics["clip_ratio/high_mean"] == pytest.approx(1 / 3)
    assert metrics["clip_ratio/low_mean"] == 0
    assert metrics["clip_ratio/region_mean"] == pytest.approx(1 / 3)

    # d/dlogp of -ρA is -ρA unless clipped; of β k3 it is β (1 - exp(d)).
    _, gradient = loss_and_gradient(batch, LossConfig(type="bnpo", beta=0.5), totals(batch["mask"]))
    by_hand = torch.tensor([[0 + 0.5 * (1 - 2), -0.9], [2.2 + 0.5 * (1 - 0.5), 0.0]], dtype=torch.float64) / 3
    torch.testing.assert_close(gradient, by_hand, rtol=0, atol=1e-12)


def test_sequence_ratio_by_hand() -> None:
    """One ratio per response: the exponential of the mean log-ratio, (0.5 + 0.1) / 2."""
    batch = {
        "logprobs": torch.tensor([[-0.5, -0.9]], dtype=torch.float64),
        "mask": torch.ones(1, 2, dtype=torch.bool),
        "advantages": torch.tensor([-1.0], dtype=torch.float64),
        "old_logprobs": torch.tensor([[-1.0, -1.0]], dtype=torch.float64),
    }
    config = LossConfig(beta=0.0, importance_sampling_level="sequence")
    loss, gradient = loss_and_gradient(batch, config, totals(batch["mask"]))
    assert float(loss) == pytest.approx(math.exp(0.3), rel=1e-12)
    torch.testing.assert_close(gradient, torch.full((1, 2), math.exp(0.3) / 2, dtype=torch.float64))


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("sizes", [[8], [4, 4], [2, 2, 2, 2], [1, 3, 4], [1] * 8], ids=str)
def test_cutting_a_step_changes_nothing(config: LossConfig, sizes: list[int]) -> None:
    batch = tensors()
    normalizer = totals(batch["mask"])
    loss, gradient = loss_and_gradient(batch, config, normalizer)
    start, losses, gradients = 0, [], []
    for size in sizes:
        part = {name: value[start : start + size] for name, value in batch.items()}
        # As in training, a micro-batch is as wide as its own longest response.
        width = int(part["mask"].sum(-1).max())
        part = {name: value if value.ndim == 1 else value[:, :width] for name, value in part.items()}
        piece, grad = loss_and_gradient(part, config, normalizer)
        losses.append(piece)
        gradients.append(torch.nn.functional.pad(grad, (0, gradient.shape[1] - width)))
        start += size
    torch.testing.assert_close(sum(losses), loss, **EXACT)
    torch.testing.assert_close(torch.cat(gradients), gradient, **EXACT)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_padding_and_order_change_nothing(config: LossConfig) -> None:
    batch = tensors()
    normalizer = totals(batch["mask"])
    loss, gradient = loss_and_gradient(batch, config, normalizer)
    garbage = {"logprobs": math.nan, "old_logprobs": math.inf, "ref_logprobs": -math.inf, "entropies": math.nan}
    wide = {
        name: value
        if value.ndim == 1
        else torch.nn.functional.pad(value, (0, 5), value=False if name == "mask" else garbage[name])
        for name, value in batch.items()
    }
    padded, wide_gradient = loss_and_gradient(wide, config, normalizer)
    torch.testing.assert_close(padded, loss, **EXACT)
    torch.testing.assert_close(wide_gradient[:, :6], gradient, **EXACT)
    assert (wide_gradient[:, 6:] == 0).all()

    order = torch.tensor([5, 2, 7, 0, 1, 6, 3, 4])
    permuted, permuted_gradient = loss_and_gradient({k: v[order] for k, v in batch.items()}, config, normalizer)
    torch.testing.assert_close(permuted, loss, **EXACT)
    torch.testing.assert_close(permuted_gradient, gradient[order], **EXACT)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("on_policy", [True, False])
def test_equal_rewards_give_exactly_no_gradient(loss_type: str, level: str, on_policy: bool) -> None:
    batch = tensors() | {"advantages": torch.zeros(8, dtype=torch.float64)}
    if on_policy:
        del batch["old_logprobs"]
    config = LossConfig(type=loss_type, beta=0.0, importance_sampling_level=level)
    _, gradient = loss_and_gradient(batch, config, totals(batch["mask"]))
    assert (gradient == 0).all()


def test_on_policy_old_logprobs_cost_nothing() -> None:
    """Without old log-probs the ratio is 1 and the gradient is that of old log-probs equal to the policy's."""
    batch = tensors()
    batch["old_logprobs"] = batch["logprobs"]
    config = LossConfig()
    expected = loss_and_gradient(batch, config, totals(batch["mask"]))
    del batch["old_logprobs"]
    for ours, theirs in zip(loss_and_gradient(batch, config, totals(batch["mask"])), expected, strict=True):
        assert torch.equal(ours, theirs)


def test_unknown_type_is_refused() -> None:
    batch = tensors()
    with pytest.raises(ValueError, match="ppo"):
        grpo_loss(**batch, config=LossConfig(type="ppo"), normalizer=totals(batch["mask"]))  # type: ignore[arg-type]


def test_unknown_level_is_refused() -> None:
    batch = tensors()
    config = LossConfig(importance_sampling_level="nope")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nope"):
        grpo_loss(**batch, config=config, normalizer=totals(batch["mask"]))


def test_missing_reference_is_refused() -> None:
    batch = tensors()
    del batch["ref_logprobs"]
    with pytest.raises(ValueError, match="ref_logprobs"):
        grpo_loss(**batch, config=LossConfig(beta=0.1), normalizer=totals(batch["mask"]))
