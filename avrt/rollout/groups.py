"""The responses to prompts, group by group, with their rewards.

Shape letters: n prompts, G responses each, N = n * G.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from avrt.model.token_logprobs import EmbeddedPrompt
from avrt.rewards import PendingRewards, RewardTable
from avrt.rollout.engine import Response
from avrt.sample import Completion


@dataclass(frozen=True)
class Sampled:
    """Prompts of this device with their responses, whose rewards are being computed.

    Attributes:
        prompts: embedded prompts, length n.
        responses: G responses per prompt.
        completions: the same responses as rewards see them, length N.
        pending: their rewards.
    """

    prompts: list[EmbeddedPrompt]
    responses: list[list[Response]]
    completions: list[Completion]
    pending: PendingRewards


@dataclass(frozen=True)
class Groups:
    """Prompts of this device with their responses.

    Attributes:
        prompts: embedded prompts, length n.
        responses: G responses per prompt.
        completions: the same responses as rewards see them, length N.
        rewards: scores by reward, and their weighted sum.
    """

    prompts: list[EmbeddedPrompt]
    responses: list[list[Response]]
    completions: list[Completion]
    rewards: RewardTable

    @property
    def num_generations(self) -> int:
        """Group size G."""
        return len(self.responses[0])

    def __len__(self) -> int:
        return len(self.prompts)

    def __add__(self, other: Groups) -> Groups:
        return Groups(
            self.prompts + other.prompts,
            self.responses + other.responses,
            self.completions + other.completions,
            join_rewards(self.rewards, other.rewards),
        )

    def take(self, numbers: Sequence[int]) -> Groups:
        """Some of the groups."""
        rows = [i * self.num_generations + j for i in numbers for j in range(self.num_generations)]
        return Groups(
            [self.prompts[i] for i in numbers],
            [self.responses[i] for i in numbers],
            [self.completions[row] for row in rows],
            RewardTable(
                {name: scores[rows] for name, scores in self.rewards.by_name.items()},
                self.rewards.total[rows],
                {name: values[rows] for name, values in self.rewards.curves.items()},
            ),
        )


@dataclass(frozen=True)
class Generated:
    """All responses to a window's prompts on this device, those that dynamic sampling did not keep included.

    Attributes:
        prompt_tokens: length of each prompt.
        completions: G per prompt, length N.
        rewards: scores by reward, and their weighted sum.
    """

    prompt_tokens: list[int]
    completions: list[Completion]
    rewards: RewardTable

    @classmethod
    def of(cls, groups: Groups) -> Generated:
        """The record of groups, without their media features."""
        return cls([len(prompt) for prompt in groups.prompts], list(groups.completions), groups.rewards)

    def __add__(self, other: Generated) -> Generated:
        return Generated(
            self.prompt_tokens + other.prompt_tokens,
            self.completions + other.completions,
            join_rewards(self.rewards, other.rewards),
        )

    @property
    def num_generations(self) -> int:
        """Group size G."""
        return len(self.completions) // len(self.prompt_tokens)

    @property
    def tokens(self) -> int:
        """Every response together with its prompt."""
        responses = sum(len(completion.token_ids) for completion in self.completions)
        return self.num_generations * sum(self.prompt_tokens) + responses


def join_rewards(first: RewardTable, second: RewardTable) -> RewardTable:
    """The scores of two batches, one after the other, under the same rewards."""
    return RewardTable(
        {name: torch.cat([scores, second.by_name[name]]) for name, scores in first.by_name.items()},
        torch.cat([first.total, second.total]),
        {name: torch.cat([values, second.curves[name]]) for name, values in first.curves.items()},
    )
