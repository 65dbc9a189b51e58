"""The members of an uncompressed tar file, listed strictly, and the members of one sample, read by webdataset.

Tar readers are lenient: they unpack compressed archives, skip links, stop silently at a damaged header and at the end
of the first of two joined archives. A shard is a list of regular files, and everything else is refused with a reason.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from webdataset.tariterators import group_by_keys, tar_file_expander

from avrt.data.faults import FaultReason, ShardError

REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE)
"""Type flags of regular files, in the newer and the older notation. Sparse files claim any size and are not among."""
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
PICKLES = frozenset({"pkl", "pickle", "pyd", "pth", "pt", "dill", "joblib"})
"""Endings of files that run code when they are loaded."""
MAX_SAMPLE_BYTES = 2**30
READ_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Member:
    """One file in a tar: its name, the offsets of its first header and of its data, and its size, in bytes."""

    name: str
    header: int
    data: int
    size: int

    @property
    def end(self) -> int:
        """The offset behind the last block of its data."""
        return self.data + -(-self.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def tar_members(file: BinaryIO | io.RawIOBase, location: str, *, part: bool = False) -> Iterator[Member]:
    """List the members of a tar file by its headers.

    Args:
        file: seekable; the whole shard, or with `part` the bytes of some members.
        location: names the shard in errors.
        part: no closing blocks are needed at the end.

    Raises:
        ShardError: when the iteration reaches what is refused. Members before it were listed.
    """
    total = file.seek(0, os.SEEK_END)
    file.seek(0)
    magic = file.read(8)
    file.seek(0)
    for start, kind in COMPRESSED.items():
        # A key may begin with the letters BZh: a tar has its mark behind the name.
        if magic.startswith(start) and not (start == b"BZh" and _has_tar_mark(file)):
            raise ShardError(location, FaultReason.COMPRESSED, f"is a {kind} file; shards are plain tar")
    if total < tarfile.BLOCKSIZE:
        raise ShardError(location, FaultReason.TRUNCATED, f"ends without closing at byte {total}")
    try:
        tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 - the file is the caller's
    except _TAR_ERRORS as error:
        raise _not_a_tar(location, 0, error) from error
    while True:
        position = tar.offset
        try:
            entry = tar.next()
        except _TAR_ERRORS as error:
            raise _not_a_tar(location, position, error) from error
        if entry is None:
            break
        tar.members.clear()  # type: ignore[attr-defined]  # they would be kept for the whole file
        name = entry.name.removeprefix("./")
        if entry.isdir() or name.rpartition("/")[2].startswith("._"):
            continue  # `tar` writes the folders of the files that it was given, and on macOS attributes of the files
        if entry.type not in REGULAR or entry.issparse():
            raise ShardError(location, FaultReason.FORBIDDEN_TYPE, f"member {name!r} is not a regular file")
        if name.startswith("/") or ".." in name.split("/"):
            raise ShardError(location, FaultReason.FORBIDDEN_NAME, f"member {name!r}")
        if entry.size < 0:
            raise ShardError(location, FaultReason.NOT_A_TAR, f"member {name!r} has a negative size")
        if entry.offset_data + entry.size > total:
            raise ShardError(location, FaultReason.TRUNCATED, f"ends inside member {name!r}")
        if name.rpartition(".")[2].lower() in PICKLES:
            raise ShardError(location, FaultReason.FORBIDDEN_MEMBER, f"member {name!r} is a pickle")
        yield Member(name, entry.offset, entry.offset_data, entry.size)
    _check_end(file, location, tar.offset, total, part)


def split_name(name: str) -> tuple[str, str]:
    """Key and suffix of a member's name, as webdataset splits it: at the first dot after the last slash."""
    folder, slash, base = name.rpartition("/")
    key, _, suffix = base.partition(".")
    return folder + slash + key, suffix


def read_members(data: bytes, location: str) -> tuple[str, dict[str, bytes]]:
    """Key and members of one sample, from its bytes in a shard.

    Raises:
        ShardError: the bytes are not the members of exactly one sample.
    """
    # Listed first: webdataset would unpack compressed data, allocate whatever a sparse file claims, and skip the rest.
    keys = set()
    for member in tar_members(io.BytesIO(data), location, part=True):
        keys.add(split_name(member.name)[0])
    source = {"url": location, "stream": io.BytesIO(data)}
    files = tar_file_expander([source], rename_files=_without_dot)
    try:
        samples = list(group_by_keys(files, lcase=False))
    except ValueError as error:
        raise ShardError(location, FaultReason.DUPLICATE_MEMBER, str(error.args[0])) from error
    if len(samples) != 1 or len(keys) != 1:
        found = ", ".join(repr(key) for key in sorted(keys)) or "nothing"
        raise ShardError(location, FaultReason.NOT_IN_MANIFEST, f"one sample was expected, and there is {found}")
    (sample,) = samples
    return sample["__key__"], {name: value for name, value in sample.items() if not name.startswith("__")}


def read_part(file: BinaryIO, location: str, begin: int, end: int) -> bytes:
    """The bytes of an open file from `begin` to `end`."""
    if not 0 <= end - begin <= MAX_SAMPLE_BYTES:
        raise ShardError(location, FaultReason.FORBIDDEN_MEMBER, f"claims a sample of {end - begin} bytes")
    parts = []
    while begin < end:
        part = os.pread(file.fileno(), end - begin, begin)
        if not part:
            raise ShardError(location, FaultReason.TRUNCATED, f"ends at byte {begin}")
        parts.append(part)
        begin += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


_TAR_ERRORS = (tarfile.TarError, ValueError, IndexError, OverflowError, RecursionError)
"""What `tarfile` raises on damaged headers."""


def _not_a_tar(location: str, position: int, error: Exception) -> ShardError:
    if str(error) in ("unexpected end of data", "empty header", "truncated header"):
        return ShardError(location, FaultReason.TRUNCATED, f"ends inside the member at byte {position}")
    # tarfile's own message repeats bytes of the file, which need not be a shard: a record can name any file.
    return ShardError(location, FaultReason.NOT_A_TAR, f"there is no tar header at byte {position}")


def _has_tar_mark(file: BinaryIO | io.RawIOBase) -> bool:
    file.seek(257)
    mark = file.read(5)
    file.seek(0)
    return mark == b"ustar"


def _check_end(file: BinaryIO | io.RawIOBase, location: str, position: int, total: int, part: bool) -> None:
    """Check that only the closing blocks follow the last member, which `tarfile` does not."""
    file.seek(position)
    block = file.read(tarfile.BLOCKSIZE)
    if block.strip(b"\0"):
        detail = f"there is no tar header at byte {position}"
        raise ShardError(location, FaultReason.NOT_A_TAR, detail)
    if not part and len(block) < tarfile.BLOCKSIZE:
        raise ShardError(location, FaultReason.TRUNCATED, f"ends without closing at byte {total}")
    if not part and total - position < 2 * tarfile.BLOCKSIZE:
        raise ShardError(location, FaultReason.TRUNCATED, "the closing blocks are cut off")
    while more := file.read(READ_BYTES):
        if more.strip(b"\0"):
            raise ShardError(
                location,
                FaultReason.TRAILING_DATA,
                f"has data after its end at byte {position}; tar files are joined by `tar --concatenate`, not `cat`",
            )


def _without_dot(name: str) -> str:
    return name.removeprefix("./")


class FileWindow(io.RawIOBase):
    """A part of a file as a file of its own, to look at one sample's headers without reading its media."""

    def __init__(self, file: BinaryIO, begin: int, end: int) -> None:
        super().__init__()
        self._file = file
        self._begin = begin
        self._size = end - begin
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        size = max(0, min(len(buffer), self._size - self._position))
        data = os.pread(self._file.fileno(), size, self._begin + self._position)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
