"""Blocks of audio on a common timeline, by their time stamps, although containers store these imprecisely.

Shape letters: S samples.
"""

from __future__ import annotations

from collections import deque
from statistics import median

import numpy as np

TOLERANCE_SECONDS = 0.02
"""A lasting difference of the time stamps from the running count of samples is a hole or an overlap above this."""

LOOKAHEAD_BLOCKS = 8
"""Number of later blocks that must agree, by their median: what passes again is jitter of the stamps."""


class Timeline:
    """Places blocks one after another; fills holes with silence and cuts what overlaps.

    Matroska rounds time stamps to milliseconds, and recorders are often off by more, so stamps are not followed block
    by block: that would put clicks everywhere. Small errors add up until they exceed the tolerance, so what is placed
    is never off by more.

    Args:
        rate: samples per second.
        limit: samples to keep.

    Attributes:
        count: samples that were added.
    """

    def __init__(self, rate: int, limit: int) -> None:
        self.limit = limit
        self._tolerance = TOLERANCE_SECONDS * rate
        self._waiting: deque[tuple[np.ndarray, int, int | None]] = deque()
        self.count = 0
        self._shift: int | None = None
        self._pieces: list[np.ndarray] = []
        self._length = 0

    @property
    def is_full(self) -> bool:
        """Whether further blocks would be ignored."""
        return self._length >= self.limit

    def add(self, block: np.ndarray, position: int | None) -> None:
        """Add the next block ``[S]``; `position` is its first sample's by its time stamp, None without one."""
        self._waiting.append((block, self.count, None if position is None else position - self.count))
        self.count += len(block)
        if len(self._waiting) > LOOKAHEAD_BLOCKS:
            self._place()

    def samples(self) -> np.ndarray:
        """What was placed, ``[S]``, at most `limit` samples; no blocks can be added after this."""
        while self._waiting:
            self._place()
        return np.concatenate([*self._pieces, np.empty(0, np.float32)])[: self.limit]

    def _place(self) -> None:
        self._follow_stamps()
        block, count, _ = self._waiting.popleft()
        if self.is_full:
            return
        position = count + (self._shift or 0)
        if position > self._length:
            self._append(np.zeros(min(position, self.limit) - self._length, np.float32))
        self._append(block[max(self._length - position, 0) :])

    def _follow_stamps(self) -> None:
        """Set the shift of the count for the first waiting block; the first stamp is followed exactly."""
        shift = self._waiting[0][2]
        if shift is None:
            return
        if self._shift is None:
            self._shift = shift
        elif abs(shift - self._shift) > self._tolerance:
            lasting = median(other for _, _, other in self._waiting if other is not None) - self._shift
            if abs(lasting) > self._tolerance and (lasting > 0) == (shift > self._shift):
                self._shift = shift

    def _append(self, piece: np.ndarray) -> None:
        self._pieces.append(piece)
        self._length += len(piece)
