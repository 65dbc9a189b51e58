"""A judge's verdicts on the traces of a page, from the ``verdicts.jsonl`` of ``avrt judge``."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avrt.files.json_rows import read_json_rows

VERDICTS_FILE = "verdicts.jsonl"
INDIVIDUAL, HEAD_TO_HEAD, SOURCE = "individual", "head_to_head", "source"
_USED = {"mode": str, "sample": str, "set": str, "against": str, "trace_sha256": str, "status": str, "error": str}


@dataclass(frozen=True)
class Verdicts:
    """Judgments by the text that was judged.

    Attributes:
        by_trace: the judgments of each trace, by sample id and SHA-256 of the trace.
        counts: individual verdicts by set: each word, or the status of a judgment without a verdict.
    """

    by_trace: dict[tuple[str, str], list[dict[str, Any]]]
    counts: dict[str, Counter[str]]

    def of(self, sample_id: str, trace: str | None) -> list[dict[str, Any]]:
        """The judgments of a trace; none if the judge read another text."""
        if trace is None:
            return []
        return self.by_trace.get((sample_id, hashlib.sha256(trace.encode()).hexdigest()), [])


def read_verdicts(place: str | Path) -> Verdicts:
    """Read a judge's output folder, or its ``verdicts.jsonl``.

    Raises:
        ValueError: there is none, or a line is not a judgment.
    """
    path = Path(place) / VERDICTS_FILE if Path(place).is_dir() else Path(place)
    if not path.is_file():
        raise ValueError(f"judgments: {path} is not a file; give the output folder of `avrt judge`")
    by_trace: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for number, row in enumerate(read_json_rows(path), start=1):
        verdict = row.get("verdict")
        if not all(isinstance(row.get(key), kind) for key, kind in _USED.items()) or (row["status"] == "ok") != (
            isinstance(verdict, dict)
        ):
            raise ValueError(f"{path}: entry {number} is not a judgment of `avrt judge`; run it again")
        by_trace[row["sample"], row["trace_sha256"]].append(row)
        if row["mode"] == INDIVIDUAL:
            counts[row["set"]][word_of(row)] += 1
    return Verdicts(dict(by_trace), dict(counts))


def word_of(row: dict[str, Any]) -> str:
    """An individual judgment in one word: its verdict, or why there is none."""
    return str(row["verdict"].get("verdict", "")) if row["verdict"] else str(row["status"])


def shown_verdict(row: dict[str, Any]) -> dict[str, Any]:
    """A judgment as the page shows it: JSON values, each fact as name and text."""
    verdict = row["verdict"] or {}
    claims = [str(claim) for claim in verdict.get("hallucinated_claims") or []]
    sources = [str(source) for source in verdict.get("source_per_claim") or []]
    left_out = ("hallucinated_claims", "source_per_claim", "explanation")
    return {
        "mode": row["mode"],
        "set": row["set"],
        "against": row["against"],
        "problem": "" if verdict else f"{row['status']}: {row['error']}".rstrip(": "),
        "facts": [[name, _text(value)] for name, value in verdict.items() if name not in left_out],
        "claims": [[claim, sources[n] if n < len(sources) else ""] for n, claim in enumerate(claims)],
        "explanation": str(verdict.get("explanation", "")),
    }


def _text(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
