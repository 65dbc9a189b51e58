"""Benchmarks, read from their authors' own files: one for each column of the paper's Table 3, and newer ones.

RivaBench has two columns, and AVQA is in-domain.

>>> items = BENCHMARKS["dailyomni"].load("data")
>>> missing = [item for item in items if item.missing]

Every question is an item, whether or not its media exist: an item without media counts as wrong, so the benchmark does
not become smaller. Benchmarks of other packages are found by class path or entry point; `docs/benchmarks.md` shows one.
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
from avrt.evaluation.benchmarks.base import (
    Benchmark,
    Entry,
    Item,
    category,
    entries_of,
    gold_by_letter,
    gold_by_text,
    option_texts,
    paths_of,
    relative_path,
    relative_paths,
)
from avrt.evaluation.benchmarks.plugins import load_class_path, load_plugin, plugin_names
from avrt.evaluation.records.record import Record
from avrt.evaluation.records.run_info import RunInfo

__all__ = [
    "BENCHMARKS",
    "MISSING_MEDIA",
    "Benchmark",
    "Entry",
    "Item",
    "Record",
    "category",
    "entries_of",
    "find_benchmark",
    "fingerprint",
    "get_benchmark",
    "gold_by_letter",
    "gold_by_text",
    "load_benchmark_of",
    "missing_media_record",
    "new_record",
    "option_texts",
    "paths_of",
    "present_benchmarks",
    "relative_path",
    "relative_paths",
    "require_media",
    "rule_path",
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
"""By name: the paper's, in the order of its Table 3, then the newer ones. Those of other packages follow when they are
first used."""

BUILT_IN = frozenset(BENCHMARKS)
"""Names that no other benchmark can have."""

_class_paths: dict[str, str] = {}
"""Class paths of the benchmarks of other packages, by name."""

MISSING_MEDIA = "missing_media"
"""`Record.failure` of an item whose files are missing."""


def get_benchmark(name: str) -> Benchmark:
    """The benchmark with this name, or at this class path.

    Raises:
        ValueError: there is none, or it cannot be loaded.
    """
    benchmark = find_benchmark(name)
    if benchmark is None:
        names = dict.fromkeys([*BENCHMARKS, *plugin_names()])
        raise ValueError(f"`benchmark` must be one of {', '.join(names)}, or a class path; got {name!r}")
    return benchmark


def find_benchmark(name: str) -> Benchmark | None:
    """The benchmark with this name, of this project or an installed package, or at this class path; None for any other
    name.

    Raises:
        ValueError: it cannot be loaded, or has the name of another one.
    """
    if name in BENCHMARKS:
        return BENCHMARKS[name]
    if "." in name:
        return _add(load_class_path(name), name)
    if name in plugin_names():
        return _add(*load_plugin(name))
    return None


def _add(benchmark: Benchmark, path: str) -> Benchmark:
    known = _class_paths.get(benchmark.name)
    if benchmark.name in BUILT_IN or known not in (None, path):
        raise ValueError(f"{path}: there is another benchmark named {benchmark.name!r} ({known or 'of this project'})")
    BENCHMARKS[benchmark.name] = benchmark
    _class_paths[benchmark.name] = path
    return benchmark


def rule_path(benchmark: Benchmark) -> str:
    """The class path of a benchmark of another package that has a rule or scores of its own, else an empty text; for
    `RunInfo.benchmark_class`."""
    return _class_paths.get(benchmark.name, "") if benchmark.official or benchmark.own_scores else ""


def load_benchmark_of(info: RunInfo) -> None:
    """Load the benchmark of a finished run into `BENCHMARKS`, if another package has it.

    One without a rule is loaded only from an installed package, for its title and number of items.

    Raises:
        ValueError: it cannot be loaded: without its rule, the official score would silently become another one.
    """
    if info.benchmark not in BENCHMARKS and (info.benchmark_class or info.benchmark in plugin_names()):
        try:
            found = find_benchmark(info.benchmark_class or info.benchmark)
        except ValueError as error:
            raise ValueError(f"the scoring rule of {info.benchmark!r} is in another package: {error}") from error
        if found is not None and found.name != info.benchmark:
            raise ValueError(
                f"the scoring rule of {info.benchmark!r} is in another package, whose {info.benchmark_class} is now "
                f"{found.name!r}; install the version that the run was made with"
            )


def present_benchmarks(root: str | Path) -> list[Benchmark]:
    """The benchmarks that have a folder of their own with annotations under `root`, those of installed packages too."""
    found = []
    for name in dict.fromkeys([*BENCHMARKS, *plugin_names()]):
        benchmark = get_benchmark(name)
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
        "media": dict(item.media) | _source_of(item),
    }
    return Record(**(values | reply))  # type: ignore[arg-type]


def _source_of(item: Item) -> dict[str, str]:
    """The clip that an item's file was cut from, where the file's name does not tell: its questions are dependent."""
    source = item.sample.source
    files = [Path(path) for paths in item.media.values() for path in paths_of(paths)]
    named = any(source in (str(file), file.stem, *file.parts) for file in files)
    return {"clip": source} if source and not named else {}


def missing_media_record(benchmark: Benchmark, item: Item) -> Record:
    """The record of an item whose media are missing: no reply, and wrong."""
    return new_record(
        benchmark,
        item,
        finish_reason="missing",
        failure=MISSING_MEDIA,
        failure_detail="not found: " + ", ".join(item.missing),
    )
