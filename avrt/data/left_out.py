"""A question that is not in the shards, and why."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LeftOut:
    """A question that was left out.

    Attributes:
        id: the question's id, or its row's number where it has none.
        source: its clip, or empty where the row names none.
        reason: one of `avrt.media.errors.MediaReason`, of `avrt.data.annotations.rows.RowReason`, or of
            `avrt.data.reasoning`.
        detail: the reason in words.
    """

    id: str
    source: str
    reason: str
    detail: str
