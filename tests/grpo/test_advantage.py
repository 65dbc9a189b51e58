"""Advantages by hand. (TRL's numbers: tests/parity.)"""

from __future__ import annotations

import math

import pytest
import torch

from avrt.grpo.advantage import group_advantages


def double(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_by_hand() -> None:
    """Rewards 0, 1, 1, 2: mean 1, unbiased variance 2/3. The second group is all alike."""
    out = group_advantages(double(0, 1, 1, 2, 3, 3, 3, 3), 4)
    scale = math.sqrt(2 / 3) + 1e-4
    torch.testing.assert_close(out.advantages, double(-1 / scale, 0, 0, 1 / scale, 0, 0, 0, 0), rtol=0, atol=1e-14)
    torch.testing.assert_close(out.group_std, double(math.sqrt(2 / 3), 0))
    assert out.zero_std.tolist() == [False, True]


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
    with pytest.raises(ValueError, match="scale_rewards"):
        group_advantages(double(1, 2), 2, "sample")


def test_large_rewards_keep_their_signal() -> None:
    """Squares beyond float32 made the deviation infinite and every advantage 0."""
    small = group_advantages(torch.tensor([0.0, 1.0, 2.0, 3.0]), 4)
    large = group_advantages(torch.tensor([0.0, 1.0, 2.0, 3.0]) * 1e30, 4)
    assert torch.allclose(large.advantages, small.advantages, atol=1e-3)
    assert large.advantages.dtype == large.group_std.dtype == torch.float32
