"""Scores from verdicts: the rows of the paper's Table 0.A.1 and Figure 0.A.1, with 95 % intervals.

Everything is computed from the records of ``verdicts.jsonl`` alone, without calls, ledger or shards.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from avrt.evaluation.statistics import clustered_interval, mcnemar_exact, wilson_interval
from avrt.judging.schema import BOTH, MERGER, NONE, SEVERAL
from avrt.traces.verdicts import ACCURATE, HALLUCINATING, MISSING_INFO, OK, TIE, VerdictRecord

ROWS = {"accurate": ACCURATE, "hallucinating": HALLUCINATING, "missing_info": MISSING_INFO}
"""Row of the table to verdict."""

GROUNDED = {"audio_grounded": "A", "visual_grounded": "V"}
"""Row of the table to the stream that the judge must have got."""

NOT_ATTRIBUTED = "not_attributed"
"""Row of the traces with false claims for which no source is known."""


def score_verdicts(records: Sequence[VerdictRecord], names: Sequence[str]) -> dict[str, Any]:
    """The scores of a run.

    Args:
        records: all lines of ``verdicts.jsonl``.
        names: names of the sets, in order.

    Returns:
        ``individual`` and ``source``: scores by set; ``head_to_head``: scores of the two sets, or None. A share is
        ``{"count", "total", "share", "interval"}``.
    """
    individual = {name: _individual([r for r in _of(records, "individual") if r.set == name]) for name in names}
    sources = {name: [r for r in _of(records, "source") if r.set == name] for name in names}
    pairs = _of(records, "head_to_head")
    return {
        "sets": list(names),
        "individual": {name: scores for name, scores in individual.items() if scores["asked"]},
        "source": {
            name: _source(found, individual[name]["judged"], individual[name]["rows"]["hallucinating"]["count"])
            for name, found in sources.items()
            if found and individual[name]["judged"]
        },
        "head_to_head": _head_to_head(pairs, names[0], names[1]) if pairs else None,
    }


def _of(records: Sequence[VerdictRecord], mode: str) -> list[VerdictRecord]:
    return [record for record in records if record.mode == mode]


def _individual(records: Sequence[VerdictRecord]) -> dict[str, Any]:
    given = [(record, record.verdict) for record in records if record.verdict is not None]
    verdicts = Counter(verdict["verdict"] for _, verdict in given)
    rows = {row: _share(verdicts[verdict], len(given)) for row, verdict in ROWS.items()}
    for row, stream in GROUNDED.items():
        flags = [verdict[row] for record, verdict in given if stream in record.streams]
        rows[row] = _share(sum(flags), len(flags))
    return {**_outcomes(records), "rows": rows}


def _source(records: Sequence[VerdictRecord], judged: int, flagged: int) -> dict[str, Any]:
    """Sources of the false claims of a set's traces; `rows` are shares of all judged traces, as in the paper."""
    verdicts = [record.verdict for record in records if record.verdict is not None]
    traces = Counter(verdict["hallucination_source"] for verdict in verdicts)
    claims = Counter(source for verdict in verdicts for source in verdict["source_per_claim"])
    flags = {
        key: _share(sum(verdict[key] for verdict in verdicts), len(verdicts))
        for key in (verdicts[0] if verdicts else ())
        if key.endswith("_accurate") or key == "merger_faithful"
    }
    teachers = [key.removesuffix("_accurate").upper() for key in flags if key.endswith("_accurate")]
    several = [BOTH if len(teachers) == 2 else SEVERAL] if len(teachers) > 1 else []
    # All that the judge could choose, also what it never chose; `NONE` only where it did.
    sources = dict.fromkeys([*several, *teachers, MERGER, *traces]) if verdicts else {}
    rows = {source: _share(traces[source], judged) for source in sources}
    if rest := flagged - len(verdicts):
        rows[NOT_ATTRIBUTED] = _share(rest, judged)
    return {
        **_outcomes(records),
        "rows": rows,
        "claims": {source: _share(count, claims.total()) for source, count in claims.most_common()},
        "flags": flags,
        "confirmed": _share(len(verdicts) - traces[NONE], len(verdicts)),
    }


def _head_to_head(records: Sequence[VerdictRecord], first: str, second: str) -> dict[str, Any]:
    """The comparison of two sets over the samples that have a verdict in both orders."""
    by_sample: dict[str, list[VerdictRecord]] = defaultdict(list)
    for record in records:
        if record.verdict is not None:
            by_sample[record.sample].append(record)
    complete = [found for found in by_sample.values() if len(found) == 2]
    used = [record for found in complete for record in found]
    winners = [_winner(record) for record in used]
    clusters = [record.source or record.sample for record in used]
    names = (first, second, TIE)
    orders = {shown: Counter(_winner(record) for record in used if record.set == shown) for shown in (first, second)}
    both = Counter(_agreed(found) for found in complete)
    # Without ties: the shares of the judgments that prefer the trace shown first.
    decided = [record for record in used if record.verdict is not None and record.verdict["winner"] != "Tie"]
    by_position = Counter(_position_of_both(found) for found in complete)
    return {
        **_outcomes(records),
        "samples": len(complete),
        "incomplete": len({record.sample for record in records}) - len(complete),
        # Each sample counts once in either order: the mean of a random order, as in the paper.
        "wins": {name: _clustered([winner == name for winner in winners], clusters) for name in names},
        "by_order": {
            f"{shown}_first": {name: _share(counts[name], len(complete)) for name in names}
            for shown, counts in orders.items()
        },
        "both_orders": {
            **{name: _share(both[name], len(complete)) for name in names},
            "depends_on_order": _share(both[None], len(complete)),
        },
        "position_bias": {
            "first_wins": _clustered(
                [record.verdict is not None and record.verdict["winner"] == "A" for record in decided],
                [record.source or record.sample for record in decided],
            ),
            "first_in_both": by_position["A"],
            "second_in_both": by_position["B"],
            "p_value": mcnemar_exact(by_position["A"], by_position["B"]),
        },
        "verdicts": {name: _seen_rows(used, name) for name in (first, second)},
    }


def _winner(record: VerdictRecord) -> str:
    """The winner's name, or `TIE`."""
    assert record.verdict is not None
    return {"A": record.set, "B": record.against}.get(record.verdict["winner"], TIE)


def _agreed(pair: Sequence[VerdictRecord]) -> str | None:
    """The winner in both orders (a tie in both is one), or None."""
    one, two = map(_winner, pair)
    return one if one == two else None


def _position_of_both(pair: Sequence[VerdictRecord]) -> str | None:
    """``A`` or ``B`` where that position won in both orders, else None."""
    one, two = (record.verdict["winner"] for record in pair if record.verdict is not None)
    return one if one == two and one != "Tie" else None


def _seen_rows(records: Sequence[VerdictRecord], name: str) -> dict[str, Any]:
    """A set's verdicts and grounding as judged beside the other set's trace, each sample in both orders."""
    seen = [
        (record, record.verdict, f"trace_{'a' if record.set == name else 'b'}_")
        for record in records
        if record.verdict is not None
    ]
    rows = {}
    for row, word in ROWS.items():
        outcomes = [verdict[f"{prefix}verdict"] == word for _, verdict, prefix in seen]
        rows[row] = _clustered(outcomes, [record.source or record.sample for record, _, _ in seen])
    for row, stream in GROUNDED.items():
        having = [(record, verdict[f"{prefix}{row}"]) for record, verdict, prefix in seen if stream in record.streams]
        rows[row] = _clustered([flag for _, flag in having], [record.source or record.sample for record, _ in having])
    return rows


def _outcomes(records: Sequence[VerdictRecord]) -> dict[str, Any]:
    """How many judgments were asked for, how many there are, and why others are not."""
    statuses = Counter(record.status for record in records)
    return {
        "asked": len(records),
        "judged": statuses[OK],
        "outcomes": dict(sorted(statuses.items())),
        "bad_replies": sum(record.bad_replies for record in records),
    }


def _share(count: int, total: int) -> dict[str, Any]:
    """A share with Wilson's interval; the share is None without items."""
    low, high = wilson_interval(count, total)
    return {"count": count, "total": total, "share": count / total if total else None, "interval": [low, high]}


def _clustered(outcomes: Sequence[bool], clusters: Sequence[str]) -> dict[str, Any]:
    """A share of judgments that depend on each other within a clip: Wilson's interval at the effective number."""
    share = _share(sum(outcomes), len(outcomes))
    if outcomes:
        share["interval"] = list(clustered_interval(outcomes, clusters))
    return share
