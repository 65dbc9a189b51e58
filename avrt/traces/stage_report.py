"""How a stage's calls ended, and the line that says why some of them failed."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field

from avrt.servers.status import Status
from avrt.traces.records import CallRecord

SHOWN_ERRORS = 3
"""Different errors that a message names, the commonest first."""
SHOWN_LENGTH = 200
"""Characters of each."""

RETRY_REJECTED = "fix the cause and call again with --retry-rejected"


class ErrorCounts:
    """Counts errors, taking those that differ in numbers alone (a length, an id) as one; shows the first of each."""

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
        """Errors with their counts, the commonest first."""
        return [(self._first[kind], count) for kind, count in self._counts.most_common()]

    def __str__(self) -> str:
        counts = self.items()
        shown = [f"{count} x {error[:SHOWN_LENGTH]}" for error, count in counts[:SHOWN_ERRORS]]
        return "; ".join(shown) + (f"; and {len(counts) - SHOWN_ERRORS} others" if len(counts) > SHOWN_ERRORS else "")


@dataclass
class StageReport:
    """The calls of one stage, or of one worker's share of it.

    Attributes:
        made: calls of this run by how they ended.
        earlier: calls that an earlier run had finished, likewise.
        errors: what failed calls of both said, by status.
    """

    made: Counter[Status] = field(default_factory=Counter)
    earlier: Counter[Status] = field(default_factory=Counter)
    errors: dict[Status, ErrorCounts] = field(default_factory=dict)

    def add_made(self, status: Status, error: str) -> None:
        """Count a call of this run."""
        self.made[status] += 1
        self._add_error(status, error)

    def add_earlier(self, record: CallRecord | None) -> None:
        """Count a call that is finished already."""
        if record is not None:
            self.earlier[record.status] += 1
            self._add_error(record.status, record.error)

    def _add_error(self, status: Status, error: str, count: int = 1) -> None:
        if status is not Status.OK:
            self.errors.setdefault(status, ErrorCounts()).add(_reason(status, error), count)

    def add(self, other: StageReport) -> None:
        """Add another worker's share."""
        self.made += other.made
        self.earlier += other.earlier
        for status, errors in other.errors.items():
            for error, count in errors.items():
                self._add_error(status, error, count)

    def to_json(self) -> str:
        """The report as text, for another process."""
        errors = {status.value: errors.items() for status, errors in self.errors.items()}
        return json.dumps({"made": self.made, "earlier": self.earlier, "errors": errors})

    @classmethod
    def from_json(cls, text: str) -> StageReport:
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

    @property
    def failed(self) -> bool:
        """Whether there were calls and none of them succeeded."""
        counts = self.counts
        return counts.total() > 0 and not counts[Status.OK]

    def explain(self, rejected: str = RETRY_REJECTED) -> str:
        """How the calls ended that did not succeed, why, and how to fix it; empty where all did.

        Args:
            rejected: what to do about rejected calls.
        """
        fixes = {
            Status.REJECTED: rejected,
            Status.GAVE_UP: "the same command calls again",
            Status.LENGTH: "raise sampling.max_tokens",
        }
        parts = []
        for status in (Status.REJECTED, Status.GAVE_UP, Status.LENGTH, Status.INTERRUPTED):
            if count := self.counts[status]:
                fix = f"; {fixes[status]}" if status in fixes else ""
                parts.append(f"{count} {status.value} ({self.errors[status]}{fix})")
        return ", ".join(parts)


def _reason(status: Status, error: str) -> str:
    return error or ("cut by the token limit" if status is Status.LENGTH else "")
