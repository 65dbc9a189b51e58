"""The records of one benchmark on disk: appended by each process, read as one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Self

from avrt.evaluation.records.record import Record
from avrt.files.atomic import sync_folder, write_atomic
from avrt.files.folder_lock import LOCK_NAME, FolderLock

RECORDS_FILE = "records.jsonl"
METRICS_FILE = "metrics.json"
_RANK_FILE = re.compile(r"records\.rank(\d+)\.jsonl")


class RecordWriter:
    """Appends records to one process's file. At most one writer per file, checked with a lock.

    Args:
        folder: ``<run>/<benchmark>``; made if absent.
        rank: number of this process among those that share the run.

    Raises:
        FolderInUseError: another process writes this file at the moment.
    """

    def __init__(self, folder: str | Path, rank: int = 0) -> None:
        self.path = Path(folder) / f"records.rank{rank}.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # One lock per process of a run: they share the folder.
        self._lock = FolderLock(folder, "evaluation", name=f".rank{rank}{LOCK_NAME}")
        self._lock.__enter__()
        self._file: BinaryIO = open(self.path, "ab+")  # noqa: SIM115 - closed by close()
        self._drop_torn_line()
        sync_folder(self.path.parent)

    def append(self, *records: Record) -> None:
        """Write records and wait until they are on disk: when this returns, a kill or power cut cannot lose them."""
        lines = "".join(record.to_json() + "\n" for record in records)
        self._file.write(lines.encode("ascii"))
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file and give up the lock."""
        if not self._file.closed:
            self._file.close()
            self._lock.__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _drop_torn_line(self) -> None:
        """Cut off what a killed process left after the last line break."""
        self._file.seek(0)
        content = self._file.read()
        complete = content.rfind(b"\n") + 1
        if complete < len(content):
            self._file.truncate(complete)


def read_records(folder: str | Path) -> list[Record]:
    """All records of ``<run>/<benchmark>``, finished or not, each item once, in the benchmark's order.

    Where an item was written more than once (tried again, or given to two processes), the first with a reply counts:
    ``records.jsonl`` first, then the files of rank 0, 1, ... A last line without a line break is still being written
    and is left out.

    Raises:
        ValueError: a line is no record (file and line are named), or there is no file of records.
    """
    folder = Path(folder)
    paths = record_files(folder)
    if not paths:
        raise ValueError(f"{folder}: holds no records ({RECORDS_FILE} or records.rank*.jsonl)")
    found: dict[str, Record] = {}
    for path in paths:
        # Split at line feeds alone: JSON lines may hold other line separators.
        for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
            record = Record.from_json(line, f"{path}: line {number}")
            earlier = found.get(record.id)
            if earlier is None or (earlier.failure is not None and record.failure is None):
                found[record.id] = record
    return in_order(found.values())


def done_ids(folder: str | Path) -> set[str]:
    """Ids of the items that have a reply, over all processes' files; a resumed run leaves them out."""
    if not record_files(Path(folder)):
        return set()
    return {record.id for record in read_records(folder) if record.failure is None}


def write_records(folder: str | Path, records: Iterable[Record]) -> Path:
    """Write ``records.jsonl`` whole or not at all, in the benchmark's order; return its path."""
    path = Path(folder) / RECORDS_FILE
    write_atomic(path, "".join(record.to_json() + "\n" for record in in_order(records)).encode("ascii"))
    return path


def merge_records(folder: str | Path) -> list[Record]:
    """Gather all processes' files into ``records.jsonl`` (call on one process, after all have finished)."""
    records = read_records(folder)
    write_records(folder, records)
    return records


def in_order(records: Iterable[Record]) -> list[Record]:
    """Records in the benchmark's own order."""
    return sorted(records, key=lambda record: (record.index, record.id))


def record_files(folder: Path) -> list[Path]:
    """The record files of a folder: ``records.jsonl``, then rank 0, 1, 2, ..."""
    ranks = sorted((int(match[1]), path) for path in folder.glob("*") if (match := _RANK_FILE.fullmatch(path.name)))
    merged = folder / RECORDS_FILE
    return [merged] * merged.is_file() + [path for _, path in ranks]
