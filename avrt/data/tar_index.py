"""A strict reader of tar headers: the positions of each sample's members in an uncompressed shard, and its faults.

General tar readers are lenient: they unpack compressed archives, follow links, and stop silently at a truncated end. A
shard is a plain list of regular files with flat names from a fixed set; everything else is refused with a reason.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from avrt.data.records import JSON_MEMBER, MEMBER_PATTERN
from avrt.sample import KEY_PATTERN

BLOCK = 512
EMPTY_BLOCK = bytes(BLOCK)
REGULAR = (b"0", b"\0")
"""Type flags of regular files, in the ustar and the older notation."""
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
MAX_JSON_BYTES = 2**26


class FaultReason(StrEnum):
    """Every reason for which a shard, or a sample in it, is refused."""

    MISSING_FILE = "missing_file"
    """The shard does not exist."""
    COMPRESSED = "compressed"
    """A compressed archive; shards are plain tar files."""
    NOT_A_TAR = "not_a_tar"
    """No tar header, or one whose checksum is wrong."""
    TRUNCATED = "truncated"
    """The file ends inside a member, or without the two empty blocks that close an archive."""
    FORBIDDEN_NAME = "forbidden_name"
    """An absolute path, a folder, ``..``, or a key with other characters than letters, digits, '-' and '_'."""
    FORBIDDEN_TYPE = "forbidden_type"
    """A link, device, folder or extended header."""
    FORBIDDEN_MEMBER = "forbidden_member"
    """A file of another kind than JSON, JPEG, PNG and FLAC, such as a pickle."""
    DUPLICATE_MEMBER = "duplicate_member"
    """The same member twice in one sample."""
    DUPLICATE_KEY = "duplicate_key"
    """A second sample under a key that was seen before."""
    MISSING_MEMBER = "missing_member"
    """A sample without its JSON member, or without a member that its JSON member lists."""
    EXTRA_MEMBER = "extra_member"
    """A member that the sample's JSON member does not list."""
    BAD_JSON = "bad_json"
    """A JSON member that does not parse, or is not of this format's version."""
    BAD_MEDIA = "bad_media"
    """A frame or audio that does not decode to what its JSON member says."""
    CHECKSUM = "checksum"
    """A member, or a whole shard, whose bytes are not those that were written."""
    NOT_IN_MANIFEST = "not_in_manifest"
    """A shard beside a manifest that does not list it, or lists another size."""


class ShardError(ValueError):
    """A shard, or one sample in it, that cannot be used.

    Attributes:
        path: the shard.
        reason: one of `FaultReason`.
        key: the sample, or None when the whole shard is refused.
        detail: the finding, in plain words.
    """

    def __init__(self, path: str | Path, reason: FaultReason, detail: str, key: str | None = None) -> None:
        where = f"{path}" if key is None else f"{path}, sample {key!r}"
        super().__init__(f"{where}: {reason.value}: {detail}")
        self.path = Path(path)
        self.reason = reason
        self.detail = detail
        self.key = key

    def __reduce__(self) -> tuple[type[ShardError], tuple[Path, FaultReason, str, str | None]]:
        return type(self), (self.path, self.reason, self.detail, self.key)


@dataclass(frozen=True)
class Entry:
    """The position of one sample: ``members[name] = (offset, size)`` in bytes, in the file's order."""

    key: str
    members: dict[str, tuple[int, int]]


def scan_shard(path: Path) -> tuple[list[Entry], list[ShardError]]:
    """Read all headers of a shard, without data.

    Returns:
        The complete entries in the file's order, and the faults found. A fault that makes the rest of the file
        unreadable keeps the samples before it; a hostile one (forbidden name, type or member) keeps none.
    """
    entries: dict[str, Entry] = {}
    faults: list[ShardError] = []
    broken: set[str] = set()
    current: str | None = None
    try:
        for name, offset, size in _headers(path):
            key, _, suffix = name.partition(".")
            if not KEY_PATTERN.fullmatch(key):
                raise ShardError(path, FaultReason.FORBIDDEN_NAME, f"member {name!r}")
            if not MEMBER_PATTERN.fullmatch(suffix):
                raise ShardError(path, FaultReason.FORBIDDEN_MEMBER, f"member {name!r}")
            if suffix == JSON_MEMBER and size > MAX_JSON_BYTES:
                raise ShardError(path, FaultReason.FORBIDDEN_MEMBER, f"member {name!r} of {size} bytes")
            if key != current:
                if key in entries:
                    # Either of the two may be right: both are left out.
                    faults.append(ShardError(path, FaultReason.DUPLICATE_KEY, "occurs twice", key))
                    broken.add(key)
                current = key
            entry = entries.setdefault(key, Entry(key, {}))
            if suffix in entry.members and key not in broken:
                faults.append(ShardError(path, FaultReason.DUPLICATE_MEMBER, f"{suffix} occurs twice", key))
                broken.add(key)
            entry.members[suffix] = (offset, size)
    except ShardError as fault:
        faults.append(fault)
        if fault.reason not in (FaultReason.TRUNCATED, FaultReason.NOT_A_TAR):
            return [], faults
        if current is not None:
            # The last sample may have lost members.
            broken.add(current)
    for entry in entries.values():
        if entry.key not in broken and JSON_MEMBER not in entry.members:
            faults.append(ShardError(path, FaultReason.MISSING_MEMBER, "lacks json", entry.key))
            broken.add(entry.key)
    return [entry for entry in entries.values() if entry.key not in broken], faults


def read_span(path: Path, offset: int, size: int) -> bytes:
    """`size` bytes of a file from `offset`. The file is opened each time, so worker processes share nothing."""
    with open(path, "rb", buffering=0) as file:
        data = os.pread(file.fileno(), size, offset)
        while len(data) < size:
            more = os.pread(file.fileno(), size - len(data), offset + len(data))
            if not more:
                raise ShardError(path, FaultReason.TRUNCATED, f"ends at byte {offset + len(data)}")
            data += more
    return data


def _headers(path: Path) -> Iterator[tuple[str, int, int]]:
    """Name, data offset and size of each regular member."""
    try:
        file = open(path, "rb", buffering=BLOCK)  # noqa: SIM115 - closed by the `with` below
    except FileNotFoundError as error:
        raise ShardError(path, FaultReason.MISSING_FILE, "there is no such file") from error
    with file:
        total = os.fstat(file.fileno()).st_size
        magic = file.read(8)
        for start, name in COMPRESSED.items():
            if magic.startswith(start):
                raise ShardError(path, FaultReason.COMPRESSED, f"is a {name} file; shards are plain tar")
        position = 0
        while True:
            file.seek(position)
            block = file.read(BLOCK)
            if len(block) < BLOCK:
                raise ShardError(path, FaultReason.TRUNCATED, f"ends without closing at byte {total}")
            if block == EMPTY_BLOCK:
                if file.read(BLOCK) != EMPTY_BLOCK:
                    raise ShardError(path, FaultReason.TRUNCATED, "the closing blocks are cut off")
                return
            try:
                name, kind, size = _parse_header(block)
            except ValueError as error:
                detail = f"there is no tar header at byte {position}: {error}"
                raise ShardError(path, FaultReason.NOT_A_TAR, detail) from error
            if kind not in REGULAR:
                raise ShardError(path, FaultReason.FORBIDDEN_TYPE, f"member {name!r} is not a regular file")
            offset = position + BLOCK
            if offset + size > total:
                raise ShardError(path, FaultReason.TRUNCATED, f"ends inside member {name!r}")
            yield name, offset, size
            position = offset + -(-size // BLOCK) * BLOCK


def _parse_header(block: bytes) -> tuple[str, bytes, int]:
    """Name, type flag and size of a ustar header. Python's `tarfile` takes ten times as long for it.

    Raises:
        ValueError: the block is not a header, or its checksum is wrong.
    """
    # The checksum counts its own eight bytes as blanks.
    if int(block[148:156].strip(b"\0 ") or b"0", 8) != sum(block) - sum(block[148:156]) + 8 * ord(" "):
        raise ValueError("its checksum is wrong")
    name, prefix = (
        field.split(b"\0", 1)[0].decode("utf-8", "backslashreplace") for field in (block[:100], block[345:500])
    )
    # Sizes of 8 GB and more have another notation, whose first byte is not a digit: int() refuses it.
    size = int(block[124:136].strip(b"\0 ") or b"0", 8)
    if size < 0:
        raise ValueError("its size is negative")
    return (f"{prefix}/{name}" if prefix else name), block[156:157], size
