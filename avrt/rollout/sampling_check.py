"""A check that the rollout engine samples with the policy's weights. No trainer needed."""

from __future__ import annotations

from collections import deque

MAX_LOGP_DIFFERENCE = 0.25
"""Mean difference of a token's log-probability between sampling and training; bfloat16 rounds some hundredths."""

WINDOW = 10
"""Optimizer steps that are judged together: one step may have few tokens, and rare ones among them."""


class SamplingCheck:
    """Warns of optimizer steps whose responses were sampled with other weights, and ends a run that does so mostly.

    Args:
        limit: largest mean difference over the tokens of a step, see `avrt.rollout.sampling_metrics`.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._above: deque[bool] = deque(maxlen=WINDOW)

    def note(self, step: int, difference: float) -> str | None:
        """Judge a step; returns a warning if it is above the limit.

        Raises:
            ValueError: more than half of the last `WINDOW` steps are above it.
        """
        self._above.append(difference > self.limit)
        if not self._above[-1]:
            return None
        line = (
            f"step {step}: responses were sampled from other weights than the policy's: their log-probabilities differ "
            f"by {difference:.2f} on average (model.max_sampling_logp_difference is {self.limit:g})"
        )
        if sum(self._above) > WINDOW // 2:
            raise ValueError(
                f"{line}, in {sum(self._above)} of the last {len(self._above)} steps; the rollout engine must take the "
                "student's weights before every window"
            )
        return line
