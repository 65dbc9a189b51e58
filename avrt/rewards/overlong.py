"""Overlong reward: a soft punishment shortly before the token limit (DAPO, arXiv 2503.14476, Eq. 13)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from avrt.rewards.base import RewardCallback
from avrt.sample import Completion


class OverlongReward(RewardCallback):
    """0 up to L_max - L_cache tokens, from there linear to -1 at L_max, and -1 above (DAPO's soft overlong punishment).

    With |y| the tokens of the completion, the end-of-turn token included: ((L_max - L_cache) - |y|) / L_cache in
    between. The arguments have TRL's names (`trl.rewards.get_soft_overlong_punishment`); verl calls L_cache
    ``overlong_buffer.len`` and the weight ``overlong_buffer.penalty_factor``.

    Args:
        soft_punish_cache: L_cache, the tokens before L_max in which the punishment grows.
        max_completion_len: L_max; None takes the run's ``model.sampling.max_completion_length``.
        weight: factor of this reward in the sum, 0 or more: the scores themselves are negative.
        name: the reward's name in the logs.

    Raises:
        ValueError: `soft_punish_cache` not between 1 and `max_completion_len`; or, before training, if no completion of
            the run can be long enough to be punished.
    """

    name = "overlong"

    def __init__(
        self,
        soft_punish_cache: int,
        max_completion_len: int | None = None,
        weight: float = 1.0,
        name: str | None = None,
    ) -> None:
        super().__init__(weight=weight, name=name)
        if weight < 0:
            raise ValueError(f"weight is {weight:g}, which would reward overlong completions; set it to 0 or more")
        self.soft_punish_cache = soft_punish_cache
        self.max_completion_len = max_completion_len
        if soft_punish_cache < 1:
            raise ValueError(f"soft_punish_cache is {soft_punish_cache}; set it to 1 token or more")
        if max_completion_len is not None:
            _check(soft_punish_cache, max_completion_len)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        sampling: Any = getattr(pl_module, "sampling", None)
        if sampling is None:  # a module that does not sample does not use rewards either
            return
        limit = sampling.max_completion_length
        if self.max_completion_len is None:
            try:
                _check(self.soft_punish_cache, limit)
            except ValueError as error:
                raise ValueError(f"trainer.callbacks.OverlongReward: {error}") from error
            self.max_completion_len = limit
        free = self.max_completion_len - self.soft_punish_cache
        if limit <= free:
            raise ValueError(
                f"trainer.callbacks.OverlongReward: it begins above {free} tokens, but "
                f"model.sampling.max_completion_length is {limit}: leave max_completion_len out"
            )

    def score(self, completions: Sequence[Completion]) -> list[float]:
        if self.max_completion_len is None:
            raise ValueError("OverlongReward: set max_completion_len; only a training run has a limit to take")
        free = self.max_completion_len - self.soft_punish_cache
        return [
            max(-1.0, min(0.0, (free - len(completion.token_ids)) / self.soft_punish_cache))
            for completion in completions
        ]


def _check(soft_punish_cache: int, longest: int) -> None:
    if soft_punish_cache > longest:
        raise ValueError(f"soft_punish_cache is {soft_punish_cache}, above the limit of {longest} tokens: lower it")
