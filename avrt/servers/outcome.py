"""How a call to a model server ended."""

from __future__ import annotations

from dataclasses import dataclass, field
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
    """The server refused this request permanently (400, 413, 422: context too long, broken media, ...)."""
    GAVE_UP = "gave_up"
    """Every attempt failed for a reason that may pass; the next run calls again."""

    @property
    def is_final(self) -> bool:
        """Whether a later run skips this call."""
        return self is not Status.GAVE_UP

    @property
    def is_failure(self) -> bool:
        """Whether the server never sent a reply."""
        return self in (Status.REJECTED, Status.GAVE_UP)


@dataclass(frozen=True)
class Outcome:
    """The result of one call.

    Attributes:
        status: kind of ending.
        text: the reply as the server sent it, with special tokens and markers. Empty where there is none.
        reasoning: thinking that the server had separated from the reply, as it sent it.
        finish_reason: ``stop`` or ``length`` where the server's word means that, else its own word.
        usage: ``prompt_tokens`` and ``completion_tokens`` as the server counted them.
        attempts: number of times the request was sent.
        latency: seconds from the first attempt to the end, including waiting.
        error: message of the last failed attempt, or the reason why the reply was interrupted, on one line.
    """

    status: Status
    text: str = ""
    reasoning: str = ""
    finish_reason: str = ""
    usage: dict[str, int] = field(default_factory=dict)
    attempts: int = 1
    latency: float = 0.0
    error: str = ""


STOP_REASONS = frozenset({"stop", "eos", "eos_token", "end_turn", "stop_sequence", "stop_token", "complete"})
LENGTH_REASONS = frozenset({"length", "max_tokens", "model_length", "max_length"})


def read_finish_reason(word: str) -> str:
    """``stop`` or ``length`` where a server's word means that, in any dialect; else the word itself."""
    lower = word.lower()
    return "stop" if lower in STOP_REASONS else "length" if lower in LENGTH_REASONS else word
