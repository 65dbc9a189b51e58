"""Classes of failed attempts: repeat, wait for the server, record as refused, or stop the run."""

from __future__ import annotations

import email.utils
import math
import time
from dataclasses import dataclass
from enum import Enum

import httpx2
import openai

PERMANENT_STATUS = frozenset({400, 413, 414, 415, 422})
"""The same request would get the same refusal: recorded once."""

NO_ROUTE_STATUS = frozenset({301, 302, 307, 308, 404, 405})
"""The address has no chat completions, or the server does not offer the model; rarely it concerns one request only."""

FATAL_STATUS = frozenset({401, 402, 403})
"""Every request would be refused: the run stops."""

NO_QUOTA = "insufficient_quota"
"""Error code of a 429 that is permanent, like a 402."""

OVERLOAD_STATUS = frozenset({408, 429, 503, 529})

MAX_RETRY_AFTER = 600.0
"""Longest pause in seconds that a server can ask for."""


class Kind(Enum):
    """Kinds of failed attempts, by what follows."""

    PERMANENT = "permanent"
    NO_ROUTE = "no_route"
    """The call did not reach a model; see `NO_ROUTE_STATUS`."""
    FATAL = "fatal"
    UNREACHABLE = "unreachable"
    """No server was listening: it does not count as an attempt, and the call waits for a server."""
    BROKEN = "broken"
    """The connection broke: it counts as an attempt, and the server is probed before it gets more calls."""
    OVERLOADED = "overloaded"
    TRANSIENT = "transient"


@dataclass(frozen=True)
class Failure:
    """One failed attempt.

    Attributes:
        kind: its kind.
        error: the error on one line. It is not cut here: a cut through an API key would hide it from redaction.
        retry_after: pause in seconds that the server asked for.
    """

    kind: Kind
    error: str
    retry_after: float | None = None


class BadReplyError(Exception):
    """An answer with status 200 that is not a chat completion."""


class ReportedError(Exception):
    """An answer with status 200 whose body is an error.

    Attributes:
        status: the HTTP status that the body names, or None.
    """

    def __init__(self, message: str, status: int | None) -> None:
        super().__init__(message)
        self.status = status


def classify(error: Exception) -> Failure:
    """Classify an exception of the `openai` client, or of reading its answer."""
    if isinstance(error, RecursionError):
        return Failure(Kind.TRANSIENT, "bad reply: its JSON is nested too deeply")
    if isinstance(error, openai.APITimeoutError | TimeoutError):
        return Failure(Kind.OVERLOADED, "timeout: no answer in time")
    if isinstance(error, openai.APIConnectionError):
        if isinstance(error.__cause__, BadReplyError):
            return Failure(Kind.TRANSIENT, f"bad reply: {_line(error.__cause__)}")
        if isinstance(error.__cause__, httpx2.ConnectError):
            return Failure(Kind.UNREACHABLE, "connection refused")
        return Failure(Kind.BROKEN, f"connection broken: {_line(error.__cause__ or error)}")
    if isinstance(error, openai.APIStatusError):
        text = f"HTTP {error.status_code}: {_line(error.message)}"
        if error.status_code == 429 and error.code == NO_QUOTA:
            return Failure(Kind.FATAL, text)
        return _by_status(error.status_code, text, _retry_after(error.response.headers))
    if isinstance(error, ReportedError):
        return _by_status(error.status, f"error with status 200: {_line(error)}", None)
    return Failure(Kind.TRANSIENT, f"bad reply: {_line(error)}")


def _by_status(status: int | None, text: str, pause: float | None) -> Failure:
    if status in PERMANENT_STATUS:
        return Failure(Kind.PERMANENT, text)
    if status in NO_ROUTE_STATUS:
        return Failure(Kind.NO_ROUTE, text)
    if status in FATAL_STATUS:
        return Failure(Kind.FATAL, text)
    return Failure(Kind.OVERLOADED if status in OVERLOAD_STATUS else Kind.TRANSIENT, text, pause)


def _retry_after(headers: httpx2.Headers) -> float | None:
    """The pause of ``Retry-After``: seconds, or a date."""
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):  # no date, or one that no clock shows
            return None
    return min(max(0.0, seconds), MAX_RETRY_AFTER) if math.isfinite(seconds) else None


def _line(value: object) -> str:
    """The text of an error on one line; its type if it has no text."""
    return " ".join(str(value).split()) or type(value).__name__
