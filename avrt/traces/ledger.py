"""The ledger: an append-only file of finished calls, durable before a call counts as done, with one writer at a time.

A ledger is a folder of ``*.jsonl`` files, one per writing process. JSON lines rather than a database: they are read
with any tool, survive a kill at any byte, and appending in groups makes one fsync serve all calls that finish at the
same time.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from avrt.files.atomic import sync_folder
from avrt.files.folder_lock import LOCK_NAME, FolderLock
from avrt.servers.status import Status
from avrt.traces.records import CallRecord, decode_record, encode_record

SUFFIX = ".jsonl"


class LedgerError(ValueError):
    """A ledger that cannot be read or written as it is; the message names the file and the mend."""


class LedgerIndex:
    """Which calls are done, and where their records stand. Texts stay on disk: a full ledger holds gigabytes.

    Where a key occurs twice, the first finished record counts (one that gave up is no finished one), in the order of
    file names and lines.

    Args:
        folder: the ledger; may be absent, which is an empty one.

    Raises:
        LedgerError: a line that is damaged. A torn last line is none: it is what a kill leaves, and was never done.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._places: dict[str, tuple[Path, int, int]] = {}
        self._status: dict[str, Status] = {}
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            for offset, line in _whole_lines(path):
                try:
                    record = decode_record(line)
                except ValueError as error:
                    raise LedgerError(
                        f"{path}: the record at byte {offset} is damaged ({error}); delete that line to make its call "
                        "again"
                    ) from error
                self._add(record, path, offset, len(line))

    def _add(self, record: CallRecord, path: Path, offset: int, size: int) -> None:
        known = self._status.get(record.key)
        # A reply beats whatever else was recorded before it: refused calls are made again only when asked for.
        if known is None or not known.is_final or (known is Status.REJECTED and record.status is not Status.GAVE_UP):
            self._places[record.key] = (path, offset, size)
            self._status[record.key] = record.status

    def __len__(self) -> int:
        return len(self._places)

    def status(self, key: str) -> Status | None:
        """How the call ended, or None if it never did."""
        return self._status.get(key)

    def get(self, key: str) -> CallRecord | None:
        """The record of a call, or None."""
        place = self._places.get(key)
        if place is None:
            return None
        path, offset, size = place
        with open(path, "rb") as file:
            return decode_record(os.pread(file.fileno(), size, offset))


class LedgerWriter:
    """Appends records; `append` returns once its record is on disk.

    ::

        async with LedgerWriter(folder) as writer:
            await writer.append(record)

    Args:
        folder: the ledger, made if absent.
        name: the file in it, without its ending; every process that writes at the same time needs its own.

    Raises:
        FolderInUseError: another process is writing the file.
        OSError: the disk is full or failing. What was half written is taken back, so the file stays whole; calls that
            were confirmed stay recorded, and the next run goes on from there.
    """

    def __init__(self, folder: str | Path, name: str = "calls") -> None:
        self.path = Path(folder) / f"{name}{SUFFIX}"
        self._pending: list[tuple[bytes, asyncio.Future[None]]] = []
        self._wake = asyncio.Event()
        self._closing = False
        self._lock = FolderLock(self.path.parent, "traces", name=f".{name}{LOCK_NAME}")
        self._failure: OSError | None = None

    async def __aenter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock.__enter__()
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        self._size = _cut_torn_line(self._descriptor)
        sync_folder(self.path.parent)
        self._task = asyncio.create_task(self._write_groups())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        self._wake.set()
        try:
            await self._task
        finally:
            os.close(self._descriptor)
            self._lock.__exit__(kind, error, trace)

    async def append(self, record: CallRecord) -> None:
        """Write one record and wait until it is on disk."""
        if self._failure is not None:
            raise self._failure
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending.append((encode_record(record), done))
        self._wake.set()
        await done

    async def _write_groups(self) -> None:
        """Write whatever is waiting with one fsync, again and again."""
        while not (self._closing and not self._pending):
            await self._wake.wait()
            self._wake.clear()
            group, self._pending = self._pending, []
            if not group:
                continue
            try:
                if self._failure is not None:
                    raise self._failure
                # In a thread: an fsync takes milliseconds in which the calls under way must go on.
                await asyncio.to_thread(self._write, b"".join(line for line, _ in group))
            except OSError as error:
                self._failure = error
                for _, done in group:
                    if not done.done():
                        done.set_exception(error)
            else:
                for _, done in group:
                    if not done.done():
                        done.set_result(None)

    def _write(self, data: bytes) -> None:
        written = 0
        try:
            while written < len(data):
                written += os.pwrite(self._descriptor, data[written:], self._size + written)
            os.fsync(self._descriptor)
        except OSError as error:
            os.ftruncate(self._descriptor, self._size)
            message = f"{error.strerror}; no call is lost: make room and run the same command again"
            raise OSError(error.errno, message, str(self.path)) from error
        self._size += len(data)


def _whole_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Offset and bytes of each line that has its end."""
    offset = 0
    with open(path, "rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield offset, line
            offset += len(line)


def _cut_torn_line(descriptor: int) -> int:
    """Drop what follows the last line end; return the file's size."""
    size = os.fstat(descriptor).st_size
    block = 1 << 16
    keep, position = 0, size
    while position > 0:
        begin = max(0, position - block)
        found = os.pread(descriptor, position - begin, begin).rfind(b"\n")
        if found >= 0:
            keep = begin + found + 1
            break
        position = begin
    if keep != size:
        os.ftruncate(descriptor, keep)
        os.fsync(descriptor)
    return keep
