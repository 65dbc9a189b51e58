"""The columns of a table: which evaluations they are of, and what they count in each item."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from avrt.evaluation.published_results import COLUMNS
from avrt.evaluation.records.record import Record
from avrt.experiments.claims import Claims
from avrt.experiments.specs import Table

Count = Callable[[Record], bool]


@dataclass(frozen=True)
class Column:
    """A column: the share of an evaluation's items of which `counts` is true.

    Attributes:
        title: heading.
        benchmark, modalities: the evaluation.
        counts: what is counted.
        items: ids of the items, None for all.
        without: ids of items that it leaves out.
    """

    title: str
    benchmark: str
    modalities: str
    counts: Count
    items: Collection[str] | None = None
    without: Collection[str] = ()

    def has(self, item: str) -> bool:
        """Whether an item counts."""
        return item not in self.without and (self.items is None or item in self.items)


def table_columns(
    table: Table,
    benchmarks: Sequence[str],
    *,
    subsets: dict[str, list[str]],
    claims: Claims | None,
    records: Callable[[str, str], Iterable[Record]],
) -> list[Column]:
    """The columns of a table.

    Args:
        table: the table.
        benchmarks: those that the base evaluates; the table's own choice applies where it has one of them.
        subsets: ids by the name of a difficulty subset; empty where there are none.
        claims: see `avrt.experiments.claims.claims_of`.
        records: all records of the table's arms with a benchmark and streams, where the columns depend on them.
    """
    chosen = [name for name in table.benchmarks if name in benchmarks] or list(benchmarks)
    pairs = [(name, modalities) for name in chosen for modalities in table.modalities]
    several = len(chosen) > 1

    def title(name: str, modalities: str, text: str = "") -> str:
        parts = [COLUMNS.get(name, name)] if several or not (text or len(table.modalities) > 1) else []
        parts += [modalities] if len(table.modalities) > 1 else []
        return " ".join([*parts, *([text] if text else [])])

    if table.kind == "difficulty":
        return [
            Column(title(name, modalities, subset), name, modalities, _is_right, frozenset(ids))
            for name, modalities in pairs
            for subset, ids in subsets.items()
        ]
    if table.kind == "errors":
        kinds: list[tuple[str, Count]] = [("format errors", _is_format_error), ("logic errors", _is_logic_error)]
        return [Column(title(n, m, text), n, m, count) for n, m in pairs for text, count in kinds]
    if table.kind == "outcomes":
        return [
            Column(title(n, m, reason), n, m, _has_reason(reason))
            for n, m in pairs
            for reason, _ in Counter(record.reason or "" for record in records(n, m)).most_common()
        ]
    if table.kind == "claims":
        if claims is None:
            return []
        return [
            Column(
                title(n, m, f"claims {words}"),
                n,
                m,
                _claims(claims, stream),
                without=frozenset(r.id for r in records(n, m) if claims(r, stream) is None),
            )
            for n, m in pairs
            for stream, words in (("V", "images"), ("A", "audio"))
            if m in ("AV", _other(stream))
        ]
    return [Column(title(name, modalities), name, modalities, _is_right) for name, modalities in pairs]


def _other(stream: str) -> str:
    """The stream beside ``V`` or ``A``."""
    return "A" if stream == "V" else "V"


def _is_right(record: Record) -> bool:
    return bool(record.correct_strict)


def _is_format_error(record: Record) -> bool:
    return record.error_type in ("instruction_format", "no_reply")


def _is_logic_error(record: Record) -> bool:
    return record.error_type == "logic"


def _has_reason(reason: str) -> Count:
    return lambda record: record.reason == reason


def _claims(claims: Claims, stream: str) -> Count:
    return lambda record: bool(claims(record, stream))
