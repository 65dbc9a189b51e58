"""Benchmarks, read from their authors' own files: one for each column of the paper's Table 3, and newer ones.

RivaBench has two columns, and AVQA is in-domain.

>>> items = BENCHMARKS["dailyomni"].load("data")
>>> missing = [item for item in items if item.missing]

Every question is an item, whether or not its media exist: an item without media counts as wrong, so the benchmark does
not become smaller.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from avrt.evaluation.benchmarks import (
    av_odyssey,
    avhbench,
    avqa,
    dailyomni,
    jointavbench,
    mmar,
    mmau,
    mmau_pro,
    omnibench,
    omnivideobench,
    rivabench,
    videomme,
    videomme_v2,
    worldsense,
)
from avrt.evaluation.benchmarks.base import Benchmark, Item
from avrt.evaluation.records.record import Record

__all__ = [
    "BENCHMARKS",
    "MISSING_MEDIA",
    "Benchmark",
    "Item",
    "fingerprint",
    "get_benchmark",
    "missing_media_record",
    "new_record",
    "present_benchmarks",
    "require_media",
    "select",
]

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        avqa.BENCHMARK,
        dailyomni.BENCHMARK,
        omnibench.BENCHMARK,
        videomme.BENCHMARK,
        rivabench.STANDUP,
        rivabench.ACADEMIC,
        mmar.BENCHMARK,
        mmau.BENCHMARK,
        worldsense.BENCHMARK,
        omnivideobench.BENCHMARK,
        jointavbench.BENCHMARK,
        videomme_v2.BENCHMARK,
        av_odyssey.BENCHMARK,
        avhbench.BENCHMARK,
        mmau_pro.BENCHMARK,
    )
}
"""By name: the paper's, in the order of its Table 3, then the newer ones."""

MISSING_MEDIA = "missing_media"
"""`Record.failure` of an item whose files are missing."""


def get_benchmark(name: str) -> Benchmark:
    """The benchmark with this name.

    Raises:
        ValueError: no benchmark has it.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"`benchmark` must be one of {', '.join(BENCHMARKS)}, got {name!r}")
    return BENCHMARKS[name]


def present_benchmarks(root: str | Path) -> list[Benchmark]:
    """The benchmarks that have a folder of their own with annotations under `root`."""
    found = []
    for benchmark in BENCHMARKS.values():
        path = benchmark.annotations(root)
        if path is not None and benchmark.media_folder(path) != Path(root) and _has_items(benchmark, path):
            found.append(benchmark)
    return found


def _has_items(benchmark: Benchmark, path: Path) -> bool:
    # RivaBench's two scenarios may share one file, which may have questions of one only.
    return path.name != "questions.json" or bool(benchmark.read(path))


def require_media(items: Sequence[Item], benchmark: Benchmark) -> None:
    """Refuse items whose media are missing (the option `require_media`).

    Raises:
        ValueError: gives their number and the first few files.
    """
    missing = [path for item in items for path in item.missing]
    if missing:
        listed = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        affected = sum(bool(item.missing) for item in items)
        raise ValueError(
            f"{benchmark.title}: media of {affected} of {len(items)} items are missing ({listed}); "
            "add them, or turn `require_media` off"
        )


def fingerprint(items: Iterable[Item]) -> str:
    """sha256 over ids, questions, options and gold answers: equal for runs that answered the same questions.

    The place of the media, and whether they exist, do not matter.
    """
    digest = hashlib.sha256()
    for item in items:
        sample = item.sample
        digest.update(json.dumps([sample.id, sample.question, sample.options, sample.answer]).encode() + b"\n")
    return digest.hexdigest()


def select(items: Sequence[Item], ids: Iterable[str]) -> list[Item]:
    """The items with the given ids, in the benchmark's order.

    Raises:
        ValueError: an id that no item has, or no id.
    """
    wanted = set(ids)
    unknown = wanted - {item.sample.id for item in items}
    if unknown:
        listed = ", ".join(sorted(unknown)[:5])
        raise ValueError(f"{len(unknown)} ids of the subset are not ids of this benchmark: {listed}")
    if not wanted:
        raise ValueError("the subset has no ids")
    return [item for item in items if item.sample.id in wanted]


def new_record(benchmark: Benchmark, item: Item, **reply: object) -> Record:
    """The record of an item; `reply` gives `text`, `finish_reason`, `failure`, token counts and so on."""
    values: dict[str, object] = {
        "id": item.sample.id,
        "benchmark": benchmark.name,
        "index": item.index,
        "question": item.sample.question,
        "options": item.sample.options,
        "gold": item.sample.gold,
        "official_gold": item.official_gold,
        "categories": dict(item.categories),
        "media": dict(item.media),
    }
    return Record(**(values | reply))  # type: ignore[arg-type]


def missing_media_record(benchmark: Benchmark, item: Item) -> Record:
    """The record of an item whose media are missing: no reply, and wrong."""
    return new_record(
        benchmark,
        item,
        finish_reason="missing",
        failure=MISSING_MEDIA,
        failure_detail="not found: " + ", ".join(item.missing),
    )
