"""Advantages by hand. (TRL's numbers: tests/parity.)"""

from __future__ import annotations

import math

import pytest
import torch

from avrt.grpo.advantage import advantage_shares, group_advantages, normalized_in_group


def double(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_by_hand() -> None:
    """Rewards 0, 1, 1, 2: mean 1, unbiased variance 2/3. The second group is all alike."""
    out = group_advantages(double(0, 1, 1, 2, 3, 3, 3, 3), 4)
    scale = math.sqrt(2 / 3) + 1e-4
    torch.testing.assert_close(out.advantages, double(-1 / scale, 0, 0, 1 / scale, 0, 0, 0, 0), rtol=0, atol=1e-14)
    torch.testing.assert_close(out.group_std, double(math.sqrt(2 / 3), 0))
    assert out.zero_std.tolist() == [False, True]


def test_equal_rewards_have_no_spread_whatever_rounding_makes_of_their_mean() -> None:
    """The mean of 8 equal float32 numbers is often not that number: most of these deviations are about 1e-7."""
    values = torch.exp(-torch.arange(1.0, 21.0) / 7)
    out = group_advantages(values.repeat_interleave(8), 8)
    assert int((out.group_std > 0).sum()) >= 5
    assert out.zero_std.all()
    assert not out.contributions.any()
    assert not group_advantages(torch.tensor([0.5, 0.5, 0.5, 0.5 + 1e-6]), 4).zero_std.any()


def test_other_scales_by_hand() -> None:
    rewards = double(0, 2, 1, 1)
    torch.testing.assert_close(group_advantages(rewards, 2, "none").advantages, double(-1, 1, 0, 0))
    scale = math.sqrt(2 / 3) + 1e-4  # over the whole batch: mean 1, squares 1 + 1
    torch.testing.assert_close(group_advantages(rewards, 2, "batch").advantages, double(-1, 1, 0, 0) / scale)


def test_unscorable_responses_stay_out() -> None:
    out = group_advantages(double(0, math.nan, 2, math.nan, math.nan, 5, math.nan, math.nan), 4)
    scale = math.sqrt(2) + 1e-4
    torch.testing.assert_close(out.advantages, double(-1 / scale, 0, 1 / scale, 0, 0, 0, 0, 0))
    assert out.zero_std.tolist() == [False, True]


def test_normalized_in_group_by_hand() -> None:
    """Groups of 2: deviations are |difference| / √2, so that both responses are 1 / √2 from the mean."""
    nan = math.nan
    scores = torch.tensor([[0.0, 0.01], [1.0, 0.03], [0.5, nan], [0.5, 4.0]])
    spread, dense = math.sqrt(0.5) / (math.sqrt(0.5) + 1e-4) / 2**0.5, 0.01 / (0.01 * 2**0.5 + 1e-4)
    expected = torch.tensor([[-spread, -dense], [spread, dense], [0.0, nan], [0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(normalized_in_group(scores, 2), expected, rtol=0, atol=1e-6, equal_nan=True)


def test_equal_scores_have_no_normalized_spread() -> None:
    """In float32 the mean of equal numbers may be off by rounding, which a batch without other spread would amplify."""
    scores = torch.tensor([0.1, 0.7, 0.3]).repeat_interleave(6)[:, None]
    assert not normalized_in_group(scores, 6).any()


TWO_REWARDS = torch.tensor([[1, 0.2], [1, 0.4], [0, 0.5], [1, 0.1]], dtype=torch.float64)
"""Accuracy and a dense reward in two groups of 2: only the dense one differs; they differ against each other."""


def shares(parts: torch.Tensor, scale: str, used: list[bool] | None = None) -> torch.Tensor | None:
    out = group_advantages(parts, 2, scale)
    torch.testing.assert_close(out.contributions.sum(1), out.advantages, rtol=0, atol=1e-12)
    return advantage_shares(out.contributions, torch.tensor(used or [True] * len(parts)), torch.Tensor.cpu)


def test_shares_by_hand() -> None:
    """Distances from the group's mean: (0, 0), (0.1, -0.1); totals 0.1. (0.5, -0.5), (-0.2, 0.2); totals 0.3.

    Unscaled, Σ A c is 2 · 0.3 · 0.5 = 0.3 for accuracy and 2 · 0.1 · 0.1 - 2 · 0.3 · 0.2 = -0.1 for the other. The
    squared deviations of the groups are 0.02 and 0.18: scaled, 0.3 / 0.18 and 0.02 / 0.02 - 0.12 / 0.18.
    """
    torch.testing.assert_close(shares(TWO_REWARDS, "none"), double(1.5, -0.5))
    torch.testing.assert_close(shares(TWO_REWARDS, "batch"), double(1.5, -0.5))
    torch.testing.assert_close(shares(TWO_REWARDS, "group"), double(5 / 6, 1 / 6), rtol=0, atol=1e-3)


def test_shares_of_rewards_normalized_one_by_one() -> None:
    """With weights 1 and 1/2 every total is ± 0.5 / √2: accuracy gets 2 · 0.25, and the other 2 · 0.125 - 2 · 0.125."""
    parts = normalized_in_group(TWO_REWARDS, 2) * torch.tensor([1.0, 0.5])
    torch.testing.assert_close(shares(parts, "batch"), double(1, 0), rtol=0, atol=2e-3)


def test_shares_count_what_the_loss_uses() -> None:
    torch.testing.assert_close(shares(TWO_REWARDS, "none", [True, True, False, False]), double(0, 1))
    torch.testing.assert_close(shares(TWO_REWARDS, "none", [False, False, False, True]), double(5 / 3, -2 / 3))
    assert shares(TWO_REWARDS, "none", [False] * 4) is None


def test_no_advantage_has_no_shares() -> None:
    """Totals without spread, though their parts have one; and completions to which no reward applies."""
    parts = [[0.1, 0.2], [0.2, 0.1], [math.nan, math.nan], [0.3, math.nan]]
    assert shares(torch.tensor(parts, dtype=torch.float64), "group") is None


def test_permuting_a_group_permutes_its_advantages() -> None:
    rewards = double(0.3, 1.7, 0.9, 2.2)
    order = [2, 0, 3, 1]
    torch.testing.assert_close(
        group_advantages(rewards[order], 4).advantages, group_advantages(rewards, 4).advantages[order]
    )


def test_refusals() -> None:
    with pytest.raises(ValueError, match="num_generations"):
        group_advantages(double(1, 2), 1)
    with pytest.raises(ValueError, match="groups of 4"):
        group_advantages(double(1, 2, 3, 4, 5, 6), 4)
    with pytest.raises(ValueError, match="groups of 2"):
        group_advantages(torch.zeros(2, 1, 1), 2)
    with pytest.raises(ValueError, match="scale_rewards"):
        group_advantages(double(1, 2), 2, "sample")


def test_large_rewards_keep_their_signal() -> None:
    """Squares beyond float32 made the deviation infinite and every advantage 0."""
    small = group_advantages(torch.tensor([0.0, 1.0, 2.0, 3.0]), 4)
    large = group_advantages(torch.tensor([0.0, 1.0, 2.0, 3.0]) * 1e30, 4)
    assert torch.allclose(large.advantages, small.advantages, atol=1e-3)
    assert large.advantages.dtype == large.group_std.dtype == torch.float32
