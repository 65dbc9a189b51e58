"""Checksums of large files: SHA-256 of blocks, computed by several threads.

A zip archive (a file of `torch.save`) can hold its own checksum, as the archive's comment: it stays with the file when
that is copied, and readers of the archive ignore it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

BLOCK_BYTES = 1 << 24
"""Part of the definition of a checksum."""

_READ_BYTES = 1 << 20
_COMMENT = re.compile(rb"avrt checksum ([0-9a-f]{64})")
_COMMENT_BYTES = len(b"avrt checksum ") + 64
_END_BYTES = 22
"""The last record of a zip archive without a comment."""
_LENGTH_BYTES = 2
"""The end of that record: the length of the comment that follows."""


def checksums(files: Sequence[Path], sizes: Sequence[int | None] | None = None) -> list[str]:
    """The checksum of each file: the hexadecimal SHA-256 of the concatenated SHA-256 digests of its blocks.

    Unlike the SHA-256 of a whole file, it can be computed by several threads.

    Args:
        sizes: how many of a file's first bytes to use; None for all.
    """
    lengths = [
        file.stat().st_size if size is None else size
        for file, size in zip(files, sizes or [None] * len(files), strict=True)
    ]
    with ThreadPoolExecutor(thread_count()) as pool:
        blocks = [
            [pool.submit(_block_digest, file, begin, length) for begin in range(0, length, BLOCK_BYTES)]
            for file, length in zip(files, lengths, strict=True)
        ]
        return [hashlib.sha256(b"".join(part.result() for part in parts)).hexdigest() for parts in blocks]


def thread_count() -> int:
    """Threads for hashing, which releases the interpreter's lock: at most one for each core of this process."""
    return min(16, len(os.sched_getaffinity(0)))


def add_checksum(archive: Path) -> None:
    """Store a zip archive's checksum as its comment.

    Raises:
        ValueError: it is not a zip archive without a comment.
    """
    with open(archive, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _END_BYTES))
        if not _ends_without_comment(file.read()):
            raise ValueError(f"{archive}: is not a zip archive, or has a comment already")
        file.seek(size - _LENGTH_BYTES)
        file.write(_COMMENT_BYTES.to_bytes(_LENGTH_BYTES, "little"))
        file.flush()
        file.write(f"avrt checksum {checksums([archive])[0]}".encode())


def stated_checksum(archive: Path) -> tuple[str, int] | None:
    """The checksum that `add_checksum` has stored, and the number of bytes it covers; None for an archive without one.

    Raises:
        ValueError: the file ends neither with a checksum nor as an archive without a comment, so it is damaged.
    """
    with open(archive, "rb") as file:
        size = max(0, file.seek(0, os.SEEK_END) - _COMMENT_BYTES)
        file.seek(size)
        end = file.read()
    if comment := _COMMENT.fullmatch(end):
        return comment[1].decode(), size
    if not _ends_without_comment(end):
        raise ValueError("there is no checksum, and the archive does not end there")
    return None


def _ends_without_comment(data: bytes) -> bool:
    """Whether data ends with the last record of a zip archive without a comment."""
    end = data[-_END_BYTES:]
    return end.startswith(b"PK\x05\x06") and end.endswith(bytes(_LENGTH_BYTES))


def _block_digest(file: Path, begin: int, length: int) -> bytes:
    """SHA-256 of the block of a file that starts at `begin`; the file is used up to `length`."""
    digest, end = hashlib.sha256(), min(begin + BLOCK_BYTES, length)
    descriptor = os.open(file, os.O_RDONLY)
    try:
        while begin < end and (data := os.pread(descriptor, min(_READ_BYTES, end - begin), begin)):
            digest.update(data)
            begin += len(data)
    finally:
        os.close(descriptor)
    return digest.digest()
