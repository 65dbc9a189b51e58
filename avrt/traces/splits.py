"""The split of a clip: a seeded share of the clips, with all their questions, is held out as ``val``."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Protocol

_POSITIONS = 2**64


def split_of(source: str, seed: int, val_share: float) -> str:
    """``train`` or ``val``, the same for all questions about a clip, on every machine."""
    return "val" if _position(source, seed) < val_share * _POSITIONS else "train"


def _position(source: str, seed: int) -> int:
    """A clip's position in the order in which clips become ``val``, from 0 to `_POSITIONS` - 1."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{source}".encode()).digest()[:8], "big")


class _SplitSettings(Protocol):
    @property
    def val_share(self) -> float | None: ...

    @property
    def split_seed(self) -> int: ...


def explain_empty_split(split: str, sources: Sequence[str], settings: _SplitSettings) -> str:
    """Why ``train`` or ``val`` has no sample, and which `val_share` gives it one.

    Args:
        sources: the clip of every sample.
        settings: the settings by which `split_of` divided them.
    """
    positions = sorted({_position(source, settings.split_seed) for source in sources})
    if len(positions) == 1:
        fix = "set it to 0 for no split val"
    elif split == "val":
        share = math.ceil(1000 * positions[0] / _POSITIONS + 1e-9) / 1000
        fix = f"set it to {share:g} or more, or to 0 for no split val"
    else:
        fix = f"set it to {math.floor(1000 * positions[-1] / _POSITIONS) / 1000:g} or less"
    return (
        f"val_share: {settings.val_share:g} leaves split {split!r} empty: {len(sources)} samples about "
        f"{len(positions)} clips are kept, all of the other split; {fix}"
    )
