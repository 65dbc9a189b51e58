"""The number of calls in flight at one server: additive increase, multiplicative decrease, as in TCP."""

from __future__ import annotations


class AdaptiveLimit:
    """A limit that is halved when the server is overloaded and grows slowly while it answers.

    A burst of failures counts once: calls that were sent before the last decrease say nothing about the limit since.

    Attributes:
        value: calls allowed at once, between 1 and `maximum`.
    """

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        self.value = maximum
        self._successes = 0
        self._decreased_at = float("-inf")

    def succeeded(self) -> None:
        """A call was answered: after as many of these as the limit allows at once, the limit grows by one."""
        self._successes += 1
        if self._successes >= self.value:
            self._successes = 0
            self.value = min(self.maximum, self.value + 1)

    def overloaded(self, *, sent_at: float, now: float) -> None:
        """A call that was sent at `sent_at` got 429, 503 or a timeout at `now` (seconds of one clock)."""
        if sent_at >= self._decreased_at:
            self.value = max(1, self.value // 2)
            self._decreased_at = now
            self._successes = 0
