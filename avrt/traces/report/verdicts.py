"""A judge's verdicts on the traces of a page, from the ``verdicts.jsonl`` of ``avrt judge``."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avrt.traces.verdicts import INDIVIDUAL, VERDICTS_FILE, VerdictRecord, digest_of
from avrt.traces.verdicts import read_verdicts as read_records


@dataclass(frozen=True)
class Verdicts:
    """Judgments by the text that was judged.

    Attributes:
        by_trace: the judgments of each trace, by sample id and SHA-256 of the trace.
    """

    by_trace: dict[tuple[str, str], list[VerdictRecord]]

    def of(self, sample_id: str, trace: str | None) -> list[VerdictRecord]:
        """The judgments of a trace; none if the judge read another text."""
        return [] if trace is None else self.by_trace.get((sample_id, digest_of(trace)), [])

    def counts(self, traces: Collection[tuple[str, str]]) -> Counter[str]:
        """Individual verdicts on some traces: each word, or the status of a judgment without a verdict."""
        known = (record for trace in traces for record in self.by_trace.get(trace, ()))
        return Counter(word_of(record) for record in known if record.mode == INDIVIDUAL)


def read_verdicts(place: str | Path) -> Verdicts:
    """Read a judge's output folder, or its ``verdicts.jsonl``.

    Raises:
        ValueError: there is none, or a line is not a judgment.
    """
    path = Path(place) / VERDICTS_FILE if Path(place).is_dir() else Path(place)
    if not path.is_file():
        raise ValueError(f"judgments: {path} is not a file; give the output folder of `avrt judge`")
    by_trace: dict[tuple[str, str], list[VerdictRecord]] = defaultdict(list)
    for record in read_records(path):
        by_trace[record.sample, record.trace_sha256].append(record)
    return Verdicts(dict(by_trace))


def word_of(record: VerdictRecord) -> str:
    """An individual judgment in one word: its verdict, or why there is none."""
    return str(record.verdict.get("verdict", "")) if record.verdict else record.status


def shown_verdict(record: VerdictRecord) -> dict[str, Any]:
    """A judgment as the page shows it: JSON values, each fact as name and text."""
    verdict = record.verdict or {}
    claims = _texts(verdict.get("hallucinated_claims"))
    sources = _texts(verdict.get("source_per_claim"))
    left_out = ("hallucinated_claims", "source_per_claim", "explanation")
    return {
        "mode": record.mode,
        "set": record.set,
        "against": record.against,
        "problem": "" if verdict else f"{record.status}: {record.error}".rstrip(": "),
        "facts": [[name, _text(value)] for name, value in verdict.items() if name not in left_out],
        "claims": [[claim, sources[n] if n < len(sources) else ""] for n, claim in enumerate(claims)],
        "explanation": str(verdict.get("explanation", "")),
    }


def _texts(value: object) -> list[str]:
    return [str(entry) for entry in value] if isinstance(value, list) else []


def _text(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
