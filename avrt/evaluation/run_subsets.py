"""Finished runs limited to lists of items, such as the easy, medium and hard questions of a benchmark."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from avrt.data.id_lists import read_ids
from avrt.evaluation.difficulty_subsets import DIFFICULTIES
from avrt.evaluation.scoring import BenchmarkRun, summarize

log = logging.getLogger(__name__)

Subsets = Mapping[str, Sequence[str]]
"""Ids of items by the subset's name."""


def read_subsets(paths: Iterable[str | Path]) -> dict[str, list[str]]:
    """Lists of ids, by the name of their file; a folder gives all its ``.txt`` files, the easy ones first.

    An empty file of a folder is left out with a warning: a few questions may have no hard one.

    Raises:
        ValueError: a folder without ids, two lists of the same name, or a wrong list (see `read_ids`).
        OSError: a file cannot be read.
    """
    found: dict[str, list[str]] = {}
    for path in map(Path, paths):
        files = sorted(path.glob("*.txt"), key=_place) if path.is_dir() else [path]
        if path.is_dir():
            empty = [file for file in files if file.stat().st_size == 0]
            files = [file for file in files if file not in empty]
            for file in empty:
                log.warning("%s: lists no ids; there is no column for it", file)
        if not files:
            raise ValueError(f"--subset: {path} has no lists of ids (.txt)")
        for file in files:
            if file.stem in found:
                raise ValueError(f"--subset: two lists are named {file.stem}; rename one")
            try:
                found[file.stem] = read_ids(file)
            except FileNotFoundError as error:
                raise ValueError(f"--subset: {file} does not exist") from error
    return found


def limit_run(scored: Sequence[BenchmarkRun], subsets: Subsets, *, partial: bool = False) -> list[BenchmarkRun]:
    """A run's benchmarks limited to each subset, scored again; a subset is of the one benchmark that has its ids.

    Args:
        scored: the run, finished or not.
        subsets: see `read_subsets`.
        partial: accept subsets of which the run does not have all items yet.

    Raises:
        ValueError: ids that the run does not have, or that several of its benchmarks have.
    """
    limited = []
    for name, ids in subsets.items():
        having = [entry for entry in scored if {record.id for record in entry.records} & set(ids)]
        if len(having) != 1:
            found = ", ".join(entry.info.benchmark for entry in having) or "none"
            run = scored[0].folder.parent if len(scored) > 1 else scored[0].folder
            raise ValueError(
                f"--subset {name}: its ids must be of one benchmark of {run}, but of its benchmarks {found} "
                f"{'has' if not having else 'have'} them; give the folder of one benchmark, or another list"
            )
        limited.append(_limit(having[0], name, ids, partial))
    return limited


def _limit(entry: BenchmarkRun, name: str, ids: Sequence[str], partial: bool) -> BenchmarkRun:
    wanted = set(ids)
    records = [record for record in entry.records if record.id in wanted]
    absent = wanted - {record.id for record in records}
    if absent and len(entry.records) == entry.info.items:
        raise ValueError(
            f"--subset {name}: {len(absent)} of its {len(wanted)} ids are no items of {entry.folder}, for instance "
            f"{', '.join(sorted(absent)[:3])}"
        )
    if absent and not partial:
        raise ValueError(
            f"{entry.folder}: has {len(records)} of the {len(wanted)} items of subset {name}; resume the run, or pass "
            "--partial"
        )
    info = dataclasses.replace(entry.info, items=len(wanted), subset=name)
    metrics = summarize(records, info, entry.rule)
    return BenchmarkRun(entry.folder, info, records, metrics, rule=entry.rule, limited=True)


def _place(path: Path) -> tuple[int, str]:
    known = path.stem in DIFFICULTIES
    return (DIFFICULTIES.index(path.stem) if known else len(DIFFICULTIES), path.stem)
