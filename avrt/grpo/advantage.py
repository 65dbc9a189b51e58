"""Group-relative advantages (paper Eq. 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

ADVANTAGE_EPSILON = 1e-4
"""Added to the group's standard deviation, as in TRL."""

LARGE_REWARD = 1e15
"""Squares of larger rewards come near float32's limit; their statistics are computed in float64."""

RewardScale = Literal["group", "batch", "none"]
"""The divisor of advantages, see `group_advantages`."""


@dataclass(frozen=True)
class GroupStatistics:
    """Advantages and statistics of a batch, group by group.

    Attributes:
        advantages: ``[N]``, the same for every token of a response.
        group_std: ``[N / G]`` unbiased standard deviation of each group's rewards.
        zero_std: bool ``[N / G]``, groups whose rewards are all equal: they have no gradient.
    """

    advantages: Tensor
    group_std: Tensor
    zero_std: Tensor


def group_advantages(rewards: Tensor, num_generations: int, scale_rewards: str = "group") -> GroupStatistics:
    """Advantages A_i = (r_i - mean(r)) / (std(r) + 1e-4) within each prompt's group of G responses.

    Args:
        rewards: ``[N]`` summed rewards, the G responses of a prompt side by side. NaN (no reward applies to
            the response) is left out of the group's mean and standard deviation and gets advantage 0.
        num_generations: group size G, at least 2.
        scale_rewards: ``group`` divides by the group's standard deviation, ``batch`` by the batch's, ``none`` not at
            all (Dr. GRPO).

    Raises:
        ValueError: G < 2, N not a multiple of G, or an unknown `scale_rewards`.
    """
    if num_generations < 2:
        raise ValueError(
            f"num_generations must be 2 or more, got {num_generations}: with one response every advantage is 0"
        )
    if rewards.ndim != 1 or rewards.shape[0] % num_generations:
        raise ValueError(f"rewards of shape {tuple(rewards.shape)} do not split into groups of {num_generations}")
    dtype = rewards.dtype
    if rewards.nan_to_num().abs().max() > LARGE_REWARD:
        rewards = rewards.double()
    grouped = rewards.view(-1, num_generations)
    centered = grouped - grouped.nanmean(dim=1, keepdim=True)
    group_std = _nanstd(grouped)
    if scale_rewards == "group":
        scale = group_std[:, None] + ADVANTAGE_EPSILON
    elif scale_rewards == "batch":
        scale = _nanstd(rewards[None]) + ADVANTAGE_EPSILON
    elif scale_rewards == "none":
        scale = torch.ones((), dtype=rewards.dtype, device=rewards.device)
    else:
        raise ValueError(f"scale_rewards must be one of {', '.join(get_args(RewardScale))}, got {scale_rewards!r}")
    advantages = torch.nan_to_num(centered / scale, nan=0.0).flatten()
    group_std = group_std.to(dtype)
    return GroupStatistics(advantages.to(dtype), group_std, torch.isclose(group_std, torch.zeros_like(group_std)))


def _nanstd(x: Tensor) -> Tensor:
    """Unbiased standard deviation over the last dimension, ignoring NaN; 0 where fewer than two values are left."""
    valid = ~x.isnan()
    count = valid.sum(-1)
    mean = x.nanmean(-1, keepdim=True)
    squares = torch.where(valid, (x - mean) ** 2, torch.zeros_like(x)).sum(-1)
    return torch.where(count > 1, (squares / (count - 1).clamp(min=1)).sqrt(), torch.zeros_like(squares))
