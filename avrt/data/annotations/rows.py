"""What is wrong with a row: a reason code, and a sentence."""

from __future__ import annotations

from enum import StrEnum


class RowReason(StrEnum):
    """Why a row is not a question that can be packed. The last two are rows of a kind, not faults."""

    MISSING_KEY = "missing_key"
    BAD_ID = "bad_id"
    BAD_QUESTION = "bad_question"
    BAD_OPTIONS = "bad_options"
    BAD_ANSWER = "bad_answer"
    SEVERAL_ANSWERS = "several_answers"
    BAD_MEDIA = "bad_media"
    BAD_REASONING = "bad_reasoning"
    OPEN_ENDED = "open_ended"
    DELETED = "deleted"

    @property
    def is_fault(self) -> bool:
        """Whether the row is wrong; else its data set means it so, and multiple choice has no use for it."""
        return self not in (RowReason.OPEN_ENDED, RowReason.DELETED)


class RowError(ValueError):
    """A row is not a question that can be packed."""

    def __init__(self, reason: RowReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
