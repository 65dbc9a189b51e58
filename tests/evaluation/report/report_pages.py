"""The reports under test, and their records."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from avrt.evaluation.records.record import Record

ITEMS = 2_000


@dataclass
class Pages:
    """The pages under test, and the scored records that they show."""

    one: Path
    two: Path
    a: list[Record]
    b: list[Record]
    music: list[Record]


def flips(first: list[Record], second: list[Record]) -> tuple[list[str], list[str]]:
    """Ids of the items that the second run wins and loses against the first."""
    pairs = [(a.id, a.correct_strict, b.correct_strict) for a, b in zip(first, second, strict=True)]
    return [item for item, a, b in pairs if b and not a], [item for item, a, b in pairs if a and not b]
