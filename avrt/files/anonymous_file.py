"""Bytes as a file without a name, for libraries and child processes that read only paths."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

MEMORY_FOLDER = Path("/dev/shm")  # noqa: S108 - the file there has no name
"""A file system in memory, used while it has room for the file twice."""


@contextmanager
def anonymous_file(blocks: Iterable[bytes], size: int) -> Iterator[Path]:
    """The path of a temporary file with the given content.

    The file has no name in any folder, so nothing is left behind even if the process is killed. Its path leads through
    this process and is valid, also for child processes, until the block ends.

    Args:
        blocks: the content.
        size: bytes in all, to choose a file system that has room for them.

    Raises:
        OSError: no file system for temporary files has room.
    """
    with tempfile.TemporaryFile(dir=_folder_with_room(size), buffering=0) as file:
        for block in blocks:
            view = memoryview(block)
            while view:
                view = view[file.write(view) :]
        yield Path(f"/proc/{os.getpid()}/fd/{file.fileno()}")


def _folder_with_room(size: int) -> Path | None:
    """The folder in memory if it has room, else None for the usual folder of temporary files."""
    try:
        free = shutil.disk_usage(MEMORY_FOLDER).free
    except OSError:
        return None
    return MEMORY_FOLDER if free > 2 * size and os.access(MEMORY_FOLDER, os.W_OK) else None
