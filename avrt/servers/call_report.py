"""How a group of calls ended, and the message that says why some of them failed."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from avrt.servers.client import ServerError
from avrt.servers.outcome import Outcome, Status

SHOWN_ERRORS = 3
"""Different errors that a message names, the most frequent first."""
SHOWN_LENGTH = 200
"""Characters of each."""
MIN_CALLS_TO_JUDGE = 100
"""Calls after which the share of failures can stop a run."""


class ErrorCounts:
    """Counts errors; those that differ only in numbers (a length, an id) count as one, shown as the first of them."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def add(self, error: str, count: int = 1) -> None:
        """Count one error, or several of the same kind."""
        error = error or "no reason given"
        kind = re.sub(r"\d+", "#", error)
        self._counts[kind] += count
        self._first.setdefault(kind, error)

    def items(self) -> list[tuple[str, int]]:
        """Errors with their counts, the most frequent first."""
        return [(self._first[kind], count) for kind, count in self._counts.most_common()]

    def __str__(self) -> str:
        counts = self.items()
        shown = [f"{count} x {error[:SHOWN_LENGTH]}" for error, count in counts[:SHOWN_ERRORS]]
        return "; ".join(shown) + (f"; and {len(counts) - SHOWN_ERRORS} others" if len(counts) > SHOWN_ERRORS else "")


@dataclass
class CallReport:
    """The calls of one run, or of one worker's share of it.

    Attributes:
        made: calls of this run by how they ended.
        earlier: calls that an earlier run had finished, likewise.
        errors: error messages of the failed calls of both, by status.
    """

    made: Counter[Status] = field(default_factory=Counter)
    earlier: Counter[Status] = field(default_factory=Counter)
    errors: dict[Status, ErrorCounts] = field(default_factory=dict)

    def add_made(self, outcome: Outcome) -> None:
        """Count a call of this run."""
        self.made[outcome.status] += 1
        self._add_error(outcome.status, outcome.error)

    def add_earlier(self, outcome: Outcome | None) -> None:
        """Count a call that an earlier run had finished; None is not counted."""
        if outcome is not None:
            self.earlier[outcome.status] += 1
            self._add_error(outcome.status, outcome.error)

    def add(self, other: CallReport) -> None:
        """Add another worker's share."""
        self.made += other.made
        self.earlier += other.earlier
        for status, errors in other.errors.items():
            for error, count in errors.items():
                self._add_error(status, error, count)

    def _add_error(self, status: Status, error: str, count: int = 1) -> None:
        if status is not Status.OK:
            reason = error or ("cut by the token limit" if status is Status.LENGTH else "")
            self.errors.setdefault(status, ErrorCounts()).add(reason, count)

    def to_json(self) -> str:
        """The report as text, for another process."""
        errors = {status.value: errors.items() for status, errors in self.errors.items()}
        return json.dumps({"made": self.made, "earlier": self.earlier, "errors": errors})

    @classmethod
    def from_json(cls, text: str) -> CallReport:
        """The reverse of `to_json`."""
        values = json.loads(text)
        made, earlier = (
            Counter({Status(status): count for status, count in values[name].items()}) for name in ("made", "earlier")
        )
        report = cls(made, earlier)
        for status, errors in values["errors"].items():
            for error, count in errors:
                report._add_error(Status(status), error, count)
        return report

    @property
    def counts(self) -> Counter[Status]:
        """All calls by how they ended."""
        return self.made + self.earlier

    def explain(self, rejected_fix: str) -> str:
        """How many calls failed, why, and how to fix it; empty if none failed.

        Args:
            rejected_fix: advice for calls that were rejected or interrupted.
        """
        fixes = {
            Status.REJECTED: rejected_fix,
            Status.INTERRUPTED: rejected_fix,
            Status.GAVE_UP: "the same command calls again",
            Status.LENGTH: "raise sampling.max_tokens",
        }
        parts = []
        for status in (Status.REJECTED, Status.GAVE_UP, Status.LENGTH, Status.INTERRUPTED):
            if count := self.counts[status]:
                fix = f"; {fixes[status]}" if status in fixes else ""
                parts.append(f"{count} {status.value} ({self.errors[status]}{fix})")
        return ", ".join(parts)


def check_failed_share(name: str, failed: int, finished: int, max_share: float, reasons: Callable[[], str]) -> None:
    """Stop a run early in which too many calls fail, say because of a wrong setting.

    Args:
        name: name of the servers' settings, with which the message begins.
        failed, finished: calls of this run.
        max_share: the share of failed calls that is allowed.
        reasons: returns why calls failed, for the message.

    Raises:
        ServerError: more failed than allowed, of at least `MIN_CALLS_TO_JUDGE` calls.
    """
    if finished >= MIN_CALLS_TO_JUDGE and failed > max_share * finished:
        raise ServerError(
            f"{name}: {failed} of {finished} calls failed, more than max_failed_share allows ({max_share:g}): "
            f"{reasons()}"
        )
