"""Easy, medium and hard items, by the number of teachers that answer them right.

Easy: both teachers; medium: one; hard: none (paper, section 4.5). The lists are text files with one id per line.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from avrt.evaluation.records.log import RECORDS_FILE
from avrt.evaluation.records.run_info import RUN_FILE, benchmark_folders
from avrt.evaluation.scoring import score_run
from avrt.files.atomic import write_atomic
from avrt.files.json_rows import read_json_rows

DIFFICULTIES = ("easy", "medium", "hard")


def read_outcomes(path: str | Path, benchmark: str | None = None) -> dict[str, bool]:
    """Right or wrong by item id, in the source's order.

    Args:
        path: a run folder, one of its benchmarks' folders or their ``records.jsonl`` (scored again), or a JSON lines
            file of objects with ``id`` and ``correct``, such as a ledger of teacher answers.
        benchmark: the benchmark, where the run has several.

    Raises:
        ValueError: none of these, several benchmarks without a choice, or an id with two different outcomes.
    """
    path = Path(path)
    if path.name == RECORDS_FILE and (path.parent / RUN_FILE).is_file():
        path = path.parent
    if path.is_dir():
        return _run_outcomes(path, benchmark)
    return _listed_outcomes(path)


def difficulty_subsets(vision: Mapping[str, bool], audio: Mapping[str, bool]) -> dict[str, list[str]]:
    """Ids by difficulty, in the vision teacher's order.

    Raises:
        ValueError: the two do not cover the same items.
    """
    if set(vision) != set(audio):
        only = sorted(set(vision) ^ set(audio))
        raise ValueError(
            f"the two teachers answered different items ({len(set(vision) - set(audio))} only in --vision, "
            f"{len(set(audio) - set(vision))} only in --audio), for instance {', '.join(only[:3])}"
        )
    subsets: dict[str, list[str]] = {name: [] for name in DIFFICULTIES}
    for item in vision:
        right = int(vision[item]) + int(audio[item])
        subsets[DIFFICULTIES[2 - right]].append(item)
    return subsets


def write_subsets(subsets: Mapping[str, Iterable[str]], out: str | Path, sources: Mapping[str, str]) -> dict[str, Any]:
    """Write ``<name>.txt`` for each subset and ``subsets.json`` with counts and sources; return the latter."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    counts = {}
    for name, ids in subsets.items():
        listed = list(ids)
        counts[name] = len(listed)
        write_atomic(out / f"{name}.txt", "".join(f"{item}\n" for item in listed).encode())
    summary = {"items": sum(counts.values()), "counts": counts, "sources": dict(sources)}
    write_atomic(out / "subsets.json", (json.dumps(summary, indent=2) + "\n").encode())
    return summary


def _run_outcomes(path: Path, benchmark: str | None) -> dict[str, bool]:
    names = {folder.name: folder for folder in benchmark_folders(path)}
    if benchmark is not None and benchmark not in names:
        raise ValueError(f"{path}: has no {benchmark!r}, only {', '.join(names)}")
    if benchmark is None and len(names) > 1:
        raise ValueError(f"{path}: has several benchmarks ({', '.join(names)}); choose one with --benchmark")
    folder = names[benchmark] if benchmark is not None else next(iter(names.values()))
    (scored,) = score_run(folder)
    return {record.id: bool(record.correct_strict) for record in scored.records}


def _listed_outcomes(path: Path) -> dict[str, bool]:
    outcomes: dict[str, bool] = {}
    for number, entry in enumerate(read_json_rows(path), start=1):
        if "id" not in entry or not isinstance(entry.get("correct"), bool):
            raise ValueError(f"{path}: entry {number} needs `id` and `correct` (true or false)")
        item, correct = str(entry["id"]), entry["correct"]
        if outcomes.setdefault(item, correct) != correct:
            raise ValueError(f"{path}: entry {number}: {item!r} was {outcomes[item]} before and is {correct} now")
    if not outcomes:
        raise ValueError(f"{path}: has no outcomes")
    return outcomes
