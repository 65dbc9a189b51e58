"""Loss, gradients, metrics and advantages are TRL's, on the same float64 tensors, to 1e-9."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from avrt.grpo.advantage import group_advantages
from avrt.grpo.loss import LossConfig, Normalizer, grpo_loss
from avrt.rewards import RewardTable, compute_rewards
from avrt.rollout.window_rollout import Devices, device_advantages
from avrt.sample import Completion
from tests.lightning_modules.training import Given
from tests.parity.trl_oracle import trl_advantages, trl_loss
from tests.tiny_student import make_sample

MAX_LENGTH = 16
EXACT = {"rtol": 0.0, "atol": 1e-9}

LOSSES = [
    LossConfig(type=loss_type, beta=beta, epsilon=0.2, epsilon_high=high, importance_sampling_level=level)
    for loss_type, beta, high, level in itertools.product(
        ("grpo", "bnpo", "dr_grpo", "dapo"), (0.0, 0.04), (None, 0.28), ("token", "sequence")
    )
]


class Batch:
    """Random ragged responses whose ratios leave the clip range on both sides."""

    def __init__(self, responses: int = 32, longest: int = 12, seed: int = 0) -> None:
        g = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, dtype=torch.float64, generator=g)

        lengths = torch.randint(1, longest + 1, (responses,), generator=g)
        lengths[0] = longest
        self.mask = torch.arange(longest) < lengths[:, None]
        self.old = -draw(responses, longest).abs()
        # A common shift per response, so that sequence ratios are clipped too.
        shift = 0.6 * draw(responses, 1)
        self.logprobs = (self.old + shift + 0.3 * draw(responses, longest)).requires_grad_()
        self.ref = self.old + 0.2 * draw(responses, longest)
        self.entropies = draw(responses, longest).abs()
        self.advantages = draw(responses)

    def normalizer(self) -> Normalizer:
        tokens = int(self.mask.sum())
        return Normalizer(len(self.mask), tokens, float(tokens), MAX_LENGTH)


def gradient(loss: Tensor, logprobs: Tensor) -> Tensor:
    (grad,) = torch.autograd.grad(loss, logprobs)
    return grad


@pytest.mark.parametrize("config", LOSSES, ids=str)
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("first_pass", [False, True], ids=["off_policy", "on_policy"])
def test_loss_gradient_and_metrics(config: LossConfig, seed: int, first_pass: bool) -> None:
    b = Batch(seed=seed)
    old = None if first_pass else b.old
    ref = b.ref if config.beta else None
    ours = grpo_loss(b.logprobs, b.mask, b.advantages, config, b.normalizer(), old, ref, b.entropies)
    theirs, metrics = trl_loss(b.logprobs, b.mask, b.advantages, config, MAX_LENGTH, old, ref, b.entropies)
    torch.testing.assert_close(ours.loss, theirs, **EXACT)
    torch.testing.assert_close(gradient(ours.loss, b.logprobs), gradient(theirs, b.logprobs), **EXACT)
    mine = {name: float(total / weight) for name, (total, weight) in ours.sums.items()}
    assert mine.keys() == metrics.keys() - {"clip_ratio/low_min", "clip_ratio/high_max"}
    for name, value in mine.items():
        # TRL counts clipped tokens in float32.
        assert value == pytest.approx(metrics[name], rel=0, abs=6e-8 if "clip" in name else 1e-9), name


def test_the_batches_above_are_clipped_on_both_sides() -> None:
    for level, seed in itertools.product(("token", "sequence"), (0, 1)):
        b = Batch(seed=seed)
        config = LossConfig(beta=0.0, importance_sampling_level=level)
        sums = grpo_loss(b.logprobs, b.mask, b.advantages, config, b.normalizer(), b.old).sums
        assert sums["clip_ratio/low_mean"][0] > 0
        assert sums["clip_ratio/high_mean"][0] > 0


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo"])
def test_accumulated_micro_batches(loss_type: str, level: str) -> None:
    """Two micro-batches of equal size add up to what TRL's two add up to (bnpo differs on purpose, see below)."""
    config = LossConfig(type=loss_type, beta=0.04, importance_sampling_level=level)
    b = Batch()
    tokens = int(b.mask.sum())
    ours, theirs = [], []
    for part in (slice(0, 16), slice(16, 32)):
        arguments = (b.logprobs[part], b.mask[part], b.advantages[part], config)
        ours.append(grpo_loss(*arguments, b.normalizer(), b.old[part], b.ref[part]).loss)
        theirs.append(trl_loss(*arguments, MAX_LENGTH, b.old[part], b.ref[part], None, 2, tokens)[0])
    torch.testing.assert_close(sum(ours), sum(theirs), **EXACT)
    torch.testing.assert_close(gradient(sum(ours), b.logprobs), gradient(sum(theirs), b.logprobs), **EXACT)


def test_bnpo_normalizes_over_the_whole_step() -> None:
    """TRL divides each micro-batch by its own tokens, which weighs tokens by how the step is cut; we do not."""
    config = LossConfig(type="bnpo", beta=0.04)
    b = Batch()
    parts = [
        grpo_loss(b.logprobs[p], b.mask[p], b.advantages[p], config, b.normalizer(), b.old[p], b.ref[p]).loss
        for p in (slice(0, 16), slice(16, 32))
    ]
    whole, _ = trl_loss(b.logprobs, b.mask, b.advantages, config, MAX_LENGTH, b.old, b.ref)
    torch.testing.assert_close(sum(parts), whole, **EXACT)


def reward_tables() -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(3)
    nan = float("nan")
    plain = torch.rand(12, 3, dtype=torch.float64, generator=g)
    equal_group = plain.clone()
    equal_group[4:8] = 0.5
    some_nan = plain.clone()
    some_nan[torch.rand(12, 3, generator=g) < 0.3] = nan
    unscorable = plain.clone()
    unscorable[[1, 6, 7]] = nan
    lone = plain.clone()
    lone[1:4] = nan
    return {
        "plain": plain,
        "equal_group": equal_group,
        "all_equal": torch.ones(12, 3, dtype=torch.float64),
        "some_nan": some_nan,
        "unscorable": unscorable,
        "one_scorable_in_group": lone,
        "group_unscorable": torch.cat([plain[:8], torch.full((4, 3), nan, dtype=torch.float64)]),
    }


@pytest.mark.parametrize("table", reward_tables().values(), ids=reward_tables().keys())
@pytest.mark.parametrize("scale_rewards", ["group", "batch", "none"])
def test_advantages(table: Tensor, scale_rewards: str) -> None:
    total = table.nansum(dim=1)
    total[table.isnan().all(dim=1)] = float("nan")
    ours = group_advantages(table, 4, scale_rewards)
    theirs, metrics = trl_advantages(table, 4, scale_rewards)
    torch.testing.assert_close(ours.advantages, theirs, **EXACT)
    torch.testing.assert_close(ours.contributions.sum(1), theirs, **EXACT)
    assert torch.equal(group_advantages(total, 4, scale_rewards).advantages, ours.advantages)
    if scale_rewards == "group" and not total.isnan().any():
        assert float(ours.zero_std.float().mean()) == pytest.approx(metrics["frac_reward_zero_std"], abs=1e-7)


@pytest.mark.parametrize("table", reward_tables().values(), ids=reward_tables().keys())
@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (1.0, 0.5, 2.0), (0.0, -1.0, 3.0)], ids=str)
def test_rewards_normalized_one_by_one(table: Tensor, weights: tuple[float, ...]) -> None:
    config = LossConfig(multi_objective_aggregation="normalize_then_sum")
    factors = torch.tensor(weights, dtype=torch.float64)
    rewards = RewardTable({str(i): column for i, column in enumerate(table.T)}, table.nanmean(1))
    ours = device_advantages(rewards, factors, 4, config, Devices())
    theirs, _ = trl_advantages(table, 4, "group", factors, "normalize_then_sum")
    torch.testing.assert_close(ours.advantages, theirs, **EXACT)
    torch.testing.assert_close(ours.contributions.sum(1), ours.advantages, **EXACT)


@pytest.mark.parametrize("table", reward_tables().values(), ids=reward_tables().keys())
def test_summed_rewards(table: Tensor) -> None:
    """From the table of rewards with weights to advantages, NaN included (rewards are float32, here and in TRL)."""
    weights = torch.tensor([1.0, 0.5, 2.0])
    rewards = [Given(str(i), table[:, i], float(w)) for i, w in enumerate(weights)]
    completions = [Completion(make_sample("video", 0), "") for _ in range(12)]
    ours = group_advantages(compute_rewards(rewards, completions).total, 4)
    theirs, _ = trl_advantages(table.float(), 4, "group", weights)
    torch.testing.assert_close(ours.advantages, theirs, rtol=0, atol=1e-6)
