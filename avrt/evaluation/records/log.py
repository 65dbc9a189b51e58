"""The records of one benchmark on disk: appended by each process, read as one set."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from threading import Lock
from typing import Self

from avrt.evaluation.records.record import FIRST, Record, Variant
from avrt.files.atomic import write_atomic
from avrt.files.jsonl_log import JsonlLog, read_complete_lines

RECORDS_FILE = "records.jsonl"
METRICS_FILE = "metrics.json"
_RANK_FILE = re.compile(r"records\.rank(\d+)\.jsonl")


class RecordWriter:
    """Appends records to one process's file; several threads of the process may append. One writer per file.

    Args:
        folder: ``<run>/<benchmark>``; created if absent.
        rank: number of this process among those that share the run.

    Raises:
        FolderInUseError: another process is writing this file.
    """

    def __init__(self, folder: str | Path, rank: int = 0) -> None:
        self._log = JsonlLog(Path(folder) / f"records.rank{rank}.jsonl", "evaluation").open()
        self._lock = Lock()

    def append(self, *records: Record) -> None:
        """Write records and wait until they are on disk: after this, a kill or power cut cannot lose them."""
        lines = [f"{record.to_json()}\n".encode("ascii") for record in records]
        with self._lock:
            self._log.append(lines)

    def close(self) -> None:
        """Close the file and release its lock."""
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_records(folder: str | Path) -> list[Record]:
    """The first reply to every item of ``<run>/<benchmark>``, finished or not, in the benchmark's order.

    See `read_all_records`; further replies to the same item are left out.
    """
    return [record for record in read_all_records(folder) if record.variant == FIRST]


def read_all_records(folder: str | Path) -> list[Record]:
    """All records of ``<run>/<benchmark>``, each reply of an item once, in the benchmark's order.

    Where a reply was written more than once (repeated, or given to two processes), the first record that has one
    counts: ``records.jsonl`` first, then the files of rank 0, 1, ... An incomplete last line is skipped.

    Raises:
        ValueError: a line is not a record (names file and line), or there is no file of records.
    """
    folder = Path(folder)
    paths = record_files(folder)
    if not paths:
        raise ValueError(f"{folder}: has no records ({RECORDS_FILE} or records.rank*.jsonl)")
    found: dict[tuple[str, Variant], Record] = {}
    for path in paths:
        for line in read_complete_lines(path):
            record = Record.from_json(line.data, f"{path}: line {line.number}")
            key = record.id, record.variant
            earlier = found.get(key)
            if earlier is None or (earlier.failure is not None and record.failure is None):
                found[key] = record
    return in_order(found.values())


def write_records(folder: str | Path, records: Iterable[Record]) -> Path:
    """Write ``records.jsonl`` atomically, in the benchmark's order; return its path."""
    path = Path(folder) / RECORDS_FILE
    write_atomic(path, "".join(record.to_json() + "\n" for record in in_order(records)).encode("ascii"))
    return path


def in_order(records: Iterable[Record]) -> list[Record]:
    """Records in the benchmark's own order; replies to one item by sample and thinking budget."""

    def place(record: Record) -> tuple[int, str, int, bool, int]:
        budget = record.thinking_budget
        return record.index, record.id, record.repeat, budget is not None, budget or 0

    return sorted(records, key=place)


def record_files(folder: Path) -> list[Path]:
    """The record files of a folder: ``records.jsonl``, then rank 0, 1, 2, ..."""
    ranks = sorted((int(match[1]), path) for path in folder.glob("*") if (match := _RANK_FILE.fullmatch(path.name)))
    merged = folder / RECORDS_FILE
    return [merged] * merged.is_file() + [path for _, path in ranks]
