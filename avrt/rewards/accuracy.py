"""Accuracy reward (Eq. 5): 1 for the right option's letter in the answer tags."""

from __future__ import annotations

from collections.abc import Sequence

from avrt.rewards.base import RewardCallback
from avrt.sample import Completion
from avrt.text.answers import parse


class AccuracyReward(RewardCallback):
    """1 if the completion's answer, stripped, is the gold letter, else 0.

    It needs one complete answer pair and ignores the rest of the format: profile ``paper`` of `avrt.text.answers`.
    """

    name = "accuracy"

    def score(self, completions: Sequence[Completion]) -> list[float]:
        return [float(completion.sample.is_right(_letter(completion))) for completion in completions]


def _letter(completion: Completion) -> str | None:
    return parse(completion.text, completion.sample, "paper", completion.finish_reason).letter
