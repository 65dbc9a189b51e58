"""How a call to a model server ended."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """How a call ended."""

    OK = "ok"
    """The model ended its turn."""
    LENGTH = "length"
    """The token limit cut the reply; kept, but never a trace."""
    INTERRUPTED = "interrupted"
    """The reply ended for another reason (content filter, refusal, tool call) or has no text; never a trace."""
    REJECTED = "rejected"
    """The server refused this request for good (400, 413, 422: context too long, broken media, ...)."""
    GAVE_UP = "gave_up"
    """Every attempt failed for a reason that may pass; the next run calls again."""

    @property
    def is_final(self) -> bool:
        """Whether the same call is never made again by itself."""
        return self is not Status.GAVE_UP


STOP_REASONS = frozenset({"stop", "eos", "eos_token", "end_turn", "stop_sequence", "stop_token", "complete"})
LENGTH_REASONS = frozenset({"length", "max_tokens", "model_length", "max_length"})


def read_finish_reason(word: str) -> str:
    """``stop`` or ``length`` where a server's word means that, in any dialect; else the word itself."""
    lower = word.lower()
    return "stop" if lower in STOP_REASONS else "length" if lower in LENGTH_REASONS else word
