"""Groups that carry a training signal: whose responses differ in a chosen reward.

A group without accuracy spread teaches nothing about accuracy. Dense rewards hide that: divided by the group's
deviation, a small difference in length becomes a full-size advantage. Such groups can be replaced by further prompts
(dynamic sampling: DAPO, arXiv 2503.14476, section 3.2) or left out of the loss (`filter_groups`).

Shape letters: n prompts, G responses each, N = n * G.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from avrt.config.numbers import TwoOrMore
from avrt.grpo.advantage import group_advantages


@dataclass(frozen=True)
class DynamicSamplingConfig:
    """Settings of dynamic sampling; `max_num_gen_batches` is verl's name, and `rewards` is its ``metric``, as a list.

    Attributes:
        rewards: names of rewards. A group is kept if its responses differ in at least one of them.
        max_num_gen_batches: bound of one optimizer step: it rolls out at most so many times the prompts of a step, the
            first time included. If too few groups with spread are found, the step is filled up with the earliest
            groups without.
    """

    rewards: list[str] = field(default_factory=lambda: ["accuracy"])
    max_num_gen_batches: TwoOrMore = 3


def has_spread(scores: Tensor, num_generations: int) -> Tensor:
    """Groups whose scores differ, bool ``[n]``; the rule of `GroupStatistics.zero_std`.

    Args:
        scores: ``[N]`` of one reward; NaN, where it does not apply, is left out.
        num_generations: group size G.
    """
    return ~group_advantages(scores, num_generations, "none").zero_std


def spread_in_any(scores: Mapping[str, Tensor], total: Tensor, names: Sequence[str], num_generations: int) -> Tensor:
    """Groups whose responses differ in at least one of the named rewards, bool ``[n]``.

    Args:
        scores: ``[N]`` of every reward, by name.
        total: ``[N]``, the weighted sums. Responses whose total is NaN have advantage 0 and do not count.
        names: one or more of them.
        num_generations: group size G.
    """
    counted = (scores[name].masked_fill(total.isnan(), torch.nan) for name in names)
    return torch.stack([has_spread(row, num_generations) for row in counted]).any(dim=0)


def select_groups(spread: Tensor, count: int) -> list[int]:
    """Numbers of the groups to train on, in order: the first `count` with spread, filled up with the earliest without.

    Args:
        spread: bool ``[n]``, n at least `count`, in the order of the prompts.
        count: groups of an optimizer step.
    """
    with_spread, without = (rows.flatten().tolist() for rows in (spread.nonzero(), (~spread).nonzero()))
    chosen = with_spread[:count]
    return sorted(chosen + without[: count - len(chosen)])


def check_group_rewards(
    dynamic_sampling: DynamicSamplingConfig | None, filter_groups: list[str] | None, rewards: list[str]
) -> None:
    """Refuse rewards that the run does not have, before the student is loaded.

    Args:
        dynamic_sampling, filter_groups: the run's settings of these names.
        rewards: names of the run's rewards.

    Raises:
        ValueError: a name is unknown, none is given, or both settings are.
    """
    if dynamic_sampling is not None and filter_groups is not None:
        raise ValueError(
            "model.dynamic_sampling and model.filter_groups are both set; set model.filter_groups to null: dynamic "
            "sampling replaces the groups that it would mask"
        )
    chosen = {"filter_groups": filter_groups}
    if dynamic_sampling is not None:
        chosen["dynamic_sampling.rewards"] = dynamic_sampling.rewards
    for key, names in chosen.items():
        unknown = [name for name in names or () if name not in rewards]
        if names == [] or unknown:
            what = f"{unknown[0]!r} is not a reward of this run" if unknown else "is empty"
            raise ValueError(f"model.{key}: {what}; trainer.callbacks lists {', '.join(map(repr, rewards))}")
