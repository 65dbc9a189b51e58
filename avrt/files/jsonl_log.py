"""An append-only file of JSON lines: durable before an append returns, one writer at a time, readable after any kill.

JSON lines rather than a database: any tool reads them, a kill at any byte costs at most the last line, and several
lines appended together need one fsync.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from avrt.files.atomic import sync_folder
from avrt.files.folder_lock import LOCK_NAME, FolderLock

_BLOCK = 1 << 16
"""Bytes read at a time when looking for the last line end."""


class Line(NamedTuple):
    """One complete line of a log.

    Attributes:
        number: from 1.
        offset: of its first byte in the file.
        data: its bytes, the line end included.
    """

    number: int
    offset: int
    data: bytes


class JsonlLog:
    """Appends lines to a file; the file is locked while it is open.

    ::

        with JsonlLog(folder / "calls.jsonl", "traces") as log:
            log.append([b'{"key": 1}\\n'])

    An incomplete last line, which a killed process may leave, is dropped when the file is opened.

    Args:
        path: the file; it and its folder are made if absent.
        command: the command that writes, for the error message that another writer gets.

    Raises:
        FolderInUseError: another process is writing the file.
    """

    def __init__(self, path: str | Path, command: str) -> None:
        self.path = Path(path)
        self._lock = FolderLock(self.path.parent, command, name=f".{self.path.stem}{LOCK_NAME}")
        self._descriptor: int | None = None
        self._size = 0

    def open(self) -> Self:
        """Lock and open the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as on_failure:
            on_failure.enter_context(self._lock)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            on_failure.callback(os.close, descriptor)
            self._size = _drop_incomplete_line(descriptor)
            sync_folder(self.path.parent)
            on_failure.pop_all()
        self._descriptor = descriptor
        return self

    def append(self, lines: Iterable[bytes]) -> None:
        """Write lines, each with its line end, and wait until they are on disk.

        Raises:
            OSError: the disk is full or failing. The partly written lines are removed again; earlier ones stay.
        """
        assert self._descriptor is not None, "the log is not open"
        data = b"".join(lines)
        written = 0
        try:
            while written < len(data):
                written += os.pwrite(self._descriptor, data[written:], self._size + written)
            os.fsync(self._descriptor)
        except OSError as error:
            os.ftruncate(self._descriptor, self._size)
            message = f"{error.strerror}; finished lines are kept: make room and run the same command again"
            raise OSError(error.errno, message, str(self.path)) from error
        self._size += len(data)

    def close(self) -> None:
        """Close the file and release the lock; a second call does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
            self._lock.__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_complete_lines(path: str | Path) -> Iterator[Line]:
    """The lines of a log in order, without an incomplete last one: it is still being written, or was cut by a kill.

    Lines end at line feeds alone: JSON text may hold other line separators.
    """
    offset = 0
    with open(path, "rb") as file:
        for number, data in enumerate(file, start=1):
            if data.endswith(b"\n"):
                yield Line(number, offset, data)
            offset += len(data)


def _drop_incomplete_line(descriptor: int) -> int:
    """Remove whatever follows the last line end; return the file's size."""
    size = os.fstat(descriptor).st_size
    keep, position = 0, size
    while position > 0:
        begin = max(0, position - _BLOCK)
        found = os.pread(descriptor, position - begin, begin).rfind(b"\n")
        if found >= 0:
            keep = begin + found + 1
            break
        position = begin
    if keep != size:
        os.ftruncate(descriptor, keep)
        os.fsync(descriptor)
    return keep
