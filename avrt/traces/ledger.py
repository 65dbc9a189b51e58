"""The ledger: append-only files of finished calls, durable before a call counts as done, one writer per file.

A ledger is a folder of ``*.jsonl`` files, one per writing process. Appending in groups makes one fsync serve all calls
that finish at the same time.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from avrt.files.jsonl_log import JsonlLog, read_complete_lines
from avrt.servers.outcome import Status
from avrt.traces.call_records import CallRecord, decode_record, encode_record

SUFFIX = ".jsonl"


class LedgerError(ValueError):
    """A ledger that cannot be read or written as it is; the message names the file and how to fix it."""


class LedgerIndex:
    """Finished calls and the places of their records. Texts stay on disk: a full ledger has gigabytes.

    Where a key occurs twice, the first finished record counts (one that gave up is not finished), in the order of file
    names and lines.

    Args:
        folder: the ledger; a missing folder is an empty ledger.

    Raises:
        LedgerError: a damaged line. An incomplete last line is skipped: a kill left it, and its call was never done.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._places: dict[str, tuple[Path, int, int]] = {}
        self._status: dict[str, Status] = {}
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            for line in read_complete_lines(path):
                try:
                    record = decode_record(line.data)
                except ValueError as error:
                    raise LedgerError(
                        f"{path}: the record at byte {line.offset} is damaged ({error}); delete that line to make its "
                        "call again"
                    ) from error
                self._add(record, path, line.offset, len(line.data))

    def _add(self, record: CallRecord, path: Path, offset: int, size: int) -> None:
        known = self._status.get(record.key)
        # A reply overrides a refusal that was recorded before it: refused calls are repeated only on request.
        refused = known in (Status.REJECTED, Status.INTERRUPTED)
        if known is None or not known.is_final or (refused and record.status is not Status.GAVE_UP):
            self._places[record.key] = (path, offset, size)
            self._status[record.key] = record.status

    def __len__(self) -> int:
        return len(self._places)

    def status(self, key: str) -> Status | None:
        """How the call ended, or None if it is not recorded."""
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
        folder: the ledger, created if absent.
        name: the file in it, without its ending; every process that writes at the same time needs its own.

    Raises:
        FolderInUseError: another process is writing the file.
        OSError: the disk is full or failing. Confirmed calls stay recorded, and the next run continues from there.
    """

    def __init__(self, folder: str | Path, name: str = "calls") -> None:
        self._log = JsonlLog(Path(folder) / f"{name}{SUFFIX}", "traces")
        self._pending: list[tuple[bytes, asyncio.Future[None]]] = []
        self._wake = asyncio.Event()
        self._closing = False
        self._failure: OSError | None = None

    async def __aenter__(self) -> Self:
        self._log.open()
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
            self._log.close()

    async def append(self, record: CallRecord) -> None:
        """Write one record and wait until it is on disk."""
        if self._failure is not None:
            raise self._failure
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending.append((encode_record(record), done))
        self._wake.set()
        await done

    async def _write_groups(self) -> None:
        """Write all waiting records with one fsync, again and again."""
        while not (self._closing and not self._pending):
            await self._wake.wait()
            self._wake.clear()
            group, self._pending = self._pending, []
            if not group:
                continue
            try:
                if self._failure is not None:
                    raise self._failure
                # In a thread: an fsync takes milliseconds, in which the calls in flight must continue.
                await asyncio.to_thread(self._log.append, [line for line, _ in group])
            except OSError as error:
                self._failure = error
                for _, done in group:
                    if not done.done():
                        done.set_exception(error)
            else:
                for _, done in group:
                    if not done.done():
                        done.set_result(None)
