"""Format reward (Eq. 4): 1 for a completion of one think pair followed by one answer pair, with nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from avrt.rewards.base import RewardCallback
from avrt.sample import Completion
from avrt.text.answers import is_formatted


class FormatReward(RewardCallback):
    """1 if the whole completion is ``<think>...</think>`` and ``<answer>...</answer>``, else 0; see `is_formatted`."""

    name = "format"

    def score(self, completions: Sequence[Completion]) -> list[float]:
        return [float(is_formatted(completion.text)) for completion in completions]
