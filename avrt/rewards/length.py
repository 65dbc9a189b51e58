"""Length reward (Eq. 6): reasoning near a target length."""

from __future__ import annotations

import math
from collections.abc import Sequence

from avrt.rewards.base import RewardCallback
from avrt.sample import Completion
from avrt.text.answers import count_think_words, first_think


class LengthReward(RewardCallback):
    """min(1, exp(-(w - mu)^2 / (2 sigma^2)) + bonus * [w_min <= w <= w_max]), with w the words of the thinking.

    Words are separated by white space and counted in the first complete think pair; without one the reward is 0. The
    paper prints ``min(0, ...)``, read here as ``min(1, ...)``, and gives no bonus; 0.2 is this project's choice.

    Args:
        mu: target number of words.
        sigma: width of the bell curve around `mu`, in words.
        w_min: fewest words that get the bonus.
        w_max: most words that get the bonus.
        bonus: b in the paper; 0 to 1.
        weight: factor of this reward in the sum.
        name: the reward's name in the logs.

    Raises:
        ValueError: `sigma` not above 0, `w_min` above `w_max`, or `bonus` outside 0 to 1.
    """

    name = "length"

    def __init__(
        self,
        mu: float = 100.0,
        sigma: float = 20.0,
        w_min: int = 100,
        w_max: int = 200,
        bonus: float = 0.2,
        weight: float = 1.0,
        name: str | None = None,
    ) -> None:
        super().__init__(weight=weight, name=name)
        if not (math.isfinite(mu) and math.isfinite(sigma) and sigma > 0):
            raise ValueError(f"LengthReward: sigma must be above 0 and mu finite; got {sigma} and {mu}")
        if w_min > w_max:
            raise ValueError(f"LengthReward: w_min is {w_min}, above w_max {w_max}; set w_min <= w_max")
        if not 0 <= bonus <= 1:
            raise ValueError(f"LengthReward: bonus is {bonus}; set it between 0 and 1")
        self.mu = mu
        self.sigma = sigma
        self.w_min = w_min
        self.w_max = w_max
        self.bonus = bonus

    def score(self, completions: Sequence[Completion]) -> list[float]:
        return [self._score_one(completion.text) for completion in completions]

    def _score_one(self, text: str) -> float:
        if first_think(text) is None:
            return 0.0
        words = count_think_words(text)
        bell = math.exp(-((words - self.mu) ** 2) / (2 * self.sigma**2))
        return min(1.0, bell + self.bonus * (self.w_min <= words <= self.w_max))
