"""Group-relative advantages (paper Eq. 2)."""

from __future__ import annotations

from collections.abc import Callable
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

Aggregation = Literal["sum_then_normalize", "normalize_then_sum"]
"""The order of summing rewards and normalizing them in their group, see `normalized_in_group`."""


@dataclass(frozen=True)
class GroupStatistics:
    """Advantages and statistics of a batch, group by group.

    Attributes:
        advantages: ``[N]``, the same for every token of a response.
        group_std: ``[N / G]`` unbiased standard deviation of each group's rewards.
        zero_std: bool ``[N / G]``, groups whose rewards are all equal: they have no gradient.
        contributions: float64 ``[N, K]``, each reward's part of the advantage: a row adds up to the response's
            advantage (up to rounding), and is 0 in groups without spread.
    """

    advantages: Tensor
    group_std: Tensor
    zero_std: Tensor
    contributions: Tensor


def group_advantages(rewards: Tensor, num_generations: int, scale_rewards: str = "group") -> GroupStatistics:
    """Advantages A_i = (r_i - mean(r)) / (std(r) + 1e-4) within each prompt's group of G responses.

    Args:
        rewards: ``[N, K]`` weighted scores of K rewards, or ``[N]`` of one, the G responses of a prompt side by side;
            r_i is the sum of row i. A NaN adds nothing to the sum. A row of NaN alone (no reward applies to the
            response) is left out of the group's mean and standard deviation and gets advantage 0.
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
    if rewards.ndim not in (1, 2) or rewards.shape[0] % num_generations:
        raise ValueError(f"rewards of shape {tuple(rewards.shape)} do not split into groups of {num_generations}")
    parts = rewards if rewards.ndim == 2 else rewards[:, None]
    rewards = parts.nansum(dim=1).masked_fill(parts.isnan().all(dim=1), torch.nan)
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
    # Rounding of the mean gives many groups of equal rewards a deviation of about 1e-7, which is above the tolerance.
    lowest = grouped.nan_to_num(nan=torch.inf).amin(dim=1)
    highest = grouped.nan_to_num(nan=-torch.inf).amax(dim=1)
    zero_std = torch.isclose(group_std, torch.zeros_like(group_std)) | (highest <= lowest)
    counted = ~(grouped.isnan() | zero_std[:, None])[..., None]
    parts = parts.double().nan_to_num(nan=0.0).view(*grouped.shape, -1) * counted
    mean = parts.sum(dim=1, keepdim=True) / counted.sum(dim=1, keepdim=True).clamp(min=1)
    contributions = (parts - mean) * counted / scale.double()[..., None]
    return GroupStatistics(advantages.to(dtype), group_std, zero_std, contributions.flatten(0, 1))


def normalized_in_group(scores: Tensor, num_generations: int) -> Tensor:
    """Scores z_ik = (r_ik - mean_k) / (std_k + 1e-4), each reward k normalized within each prompt's group by itself.

    The first half of GDPO (arXiv 2601.05242; TRL's ``normalize_then_sum``). Its second half is `group_advantages` of
    ``weights * z`` with ``scale_rewards="batch"``: A_i = Σ_k w_k z_ik / (std of that sum over the batch + 1e-4). The
    published formula subtracts the batch's mean as well; it is 0 here, since every z_k has mean 0 in each group.

    With the plain sum, a reward with ten times the spread has ten times the influence on the advantage; here the
    weights alone decide. On the other hand a group's smallest differences become as large as any other group's.

    Args:
        scores: ``[N, K]``, one column per reward, before weights; NaN where a reward does not apply.
        num_generations: group size G.

    Returns:
        float64 ``[N, K]``: in float32, rounding alone would give scores that are all equal a spread, which the division
        by the batch's deviation would make visible. NaN stays NaN.
    """
    grouped = scores.double().view(-1, num_generations, scores.shape[1])
    centered = grouped - grouped.nanmean(dim=1, keepdim=True)
    return (centered / (_nanstd(grouped.transpose(1, 2))[:, None] + ADVANTAGE_EPSILON)).flatten(0, 1)


def advantage_shares(contributions: Tensor, used: Tensor, gather: Callable[[Tensor], Tensor]) -> Tensor | None:
    """The share of the advantages' variance that comes from each reward; the shares add up to 1.

    With c_ik the part of reward k in the advantage A_i = Σ_k c_ik, share_k = cov(A, c_k) / var(A)
    = Σ_i A_i c_ik / Σ_i A_i², over all responses that take part in the loss (A and c have mean 0 in each group). A
    negative share is a reward that works against the sum of the others.

    Args:
        contributions: ``[N, K]`` of this device, see `GroupStatistics`.
        used: bool ``[N]``, the responses that take part in the loss.
        gather: values of this device -> those of all devices, one after another.

    Returns:
        ``[K]``, or None if every advantage is 0.
    """
    products = contributions * contributions.sum(dim=1, keepdim=True)
    explained = gather(products[used].sum(dim=0, keepdim=True)).sum(dim=0)
    return explained / explained.sum() if explained.sum() > 0 else None


def _nanstd(x: Tensor) -> Tensor:
    """Unbiased standard deviation over the last dimension, ignoring NaN; 0 where fewer than two values are left."""
    valid = ~x.isnan()
    count = valid.sum(-1)
    mean = x.nanmean(-1, keepdim=True)
    squares = torch.where(valid, (x - mean) ** 2, torch.zeros_like(x)).sum(-1)
    return torch.where(count > 1, (squares / (count - 1).clamp(min=1)).sqrt(), torch.zeros_like(squares))
