"""The samples of one shard and where each of them begins: from the manifest, or by one pass over the tar file."""

from __future__ import annotations

import io
import logging
import os
import tarfile
import zlib
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from avrt.data.faults import FaultReason, ShardError
from avrt.data.foreign_shards import NoClipError, foreign_record, is_foreign
from avrt.data.manifest import ShardSummary
from avrt.data.records import (
    JSON_MEMBER,
    MAX_JSON_BYTES,
    MEMBER_PATTERN,
    RecordError,
    check_members,
    check_names,
    parse_json,
    parse_record,
    to_sample,
)
from avrt.data.tar_members import REGULAR, Member, read_members, read_part, split_name, tar_members
from avrt.sample import KEY_PATTERN, Sample
from avrt.storage.shard_cache import ShardFile

log = logging.getLogger(__name__)


@dataclass
class ShardIndex:
    """The samples of one shard, in its order.

    Attributes:
        keys, splits, sources: ids, splits and clips.
        begins, ends: each sample's bytes in the file.
        checksums: of each sample's content, see `content_checksum`; -1 where it is not known.
        foreign: the shard was made by another tool.
    """

    keys: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    begins: array[int] = field(default_factory=lambda: array("q"))
    ends: array[int] = field(default_factory=lambda: array("q"))
    checksums: array[int] = field(default_factory=lambda: array("q"))
    foreign: bool = False

    def add(self, key: str, sample: Sample, begin: int, end: int, checksum: int) -> None:
        """Append one sample."""
        self.keys.append(key)
        self.splits.append(sample.split)
        self.sources.append(sample.source)
        self.begins.append(begin)
        self.ends.append(end)
        self.checksums.append(checksum)


def index_of_manifest(shard: ShardSummary) -> ShardIndex:
    """The index that a manifest states."""
    ends = array("q", [*shard.offsets[1:], shard.bytes] if shard.offsets else [])
    checksums = array("q", shard.checksums or [-1] * len(shard.keys))
    return ShardIndex(shard.keys, shard.sample_splits(), shard.sources, array("q", shard.offsets), ends, checksums)


@dataclass
class _Entry:
    """The members of one sample by suffix, and the offset where they begin; `end` follows the last one."""

    begin: int
    end: int
    members: dict[str, Member] = field(default_factory=dict)


def index_of_tar(
    file: BinaryIO, location: str, *, check_media: bool = False, split: str = "train"
) -> tuple[ShardIndex, list[ShardError]]:
    """Read all headers and JSON members of a shard.

    Args:
        check_media: also compare all media members with the checksums in the JSON members.
        split: of samples from other tools that state none.

    Returns:
        The samples that are complete, and the faults found. A fault that makes the rest of the file unreadable keeps
        the samples before it; a hostile one (forbidden name, type or member) keeps none.
    """
    entries, broken, faults = _group(file, location)
    if any(fault.key is None and fault.reason not in _KEEP_WHAT_WAS_READ for fault in faults):
        return ShardIndex(), faults
    index = ShardIndex(foreign=bool(entries) and _is_foreign(file, next(iter(entries.values()))))
    if not index.foreign and (fault := _foreign_member(entries, location)) is not None:
        return ShardIndex(), [fault]
    without_clip: list[str] = []
    for number, (key, entry) in enumerate(entries.items()):
        if key in broken:
            continue
        try:
            with naming(location, key, FaultReason.OTHER_TOOL if index.foreign else FaultReason.BAD_JSON):
                sample = _read_text(file, entry, key, index.foreign, split)
                if check_media:
                    _check_media(file, location, key, entry, index.foreign)
        except ShardError as fault:
            if isinstance(fault.__cause__, NoClipError):
                without_clip.append(fault.detail)
                continue
            if index.foreign and not number:  # the others are alike
                return ShardIndex(), [ShardError(location, fault.reason, fault.detail)]
            faults.append(fault)
            continue
        checksum = content_checksum(file, entry.members, index.foreign)
        index.add(sample.id, sample, entry.begin, entry.end, checksum)
    if without_clip:
        log.warning("%s: %d samples without a clip are left out; one %s", location, len(without_clip), without_clip[0])
    return index, faults


def file_fault(file: ShardFile) -> ShardError | None:
    """What is wrong with a local shard's file, without reading it."""
    try:
        size = os.stat(file.location).st_size
    except FileNotFoundError:
        return ShardError(file.location, FaultReason.MISSING_FILE, "there is no such file")
    if file.bytes is None or size == file.bytes:
        return None
    reason = FaultReason.TRUNCATED if size < file.bytes else FaultReason.NOT_IN_MANIFEST
    return ShardError(file.location, reason, f"has {size} bytes, and the manifest lists {file.bytes}")


@contextmanager
def naming(location: str, key: str, reason: FaultReason = FaultReason.BAD_JSON) -> Iterator[None]:
    """Errors in a sample's members become a `ShardError` that names shard and sample."""
    try:
        yield
    except ShardError as error:
        if error.key is not None:
            raise
        raise ShardError(error.location, error.reason, error.detail, key) from error
    except RecordError as error:
        raise ShardError(location, FaultReason(error.reason), error.detail, key) from error
    except ValueError as error:
        raise ShardError(location, reason, str(error), key) from error


_ENDS_BYTES = 4096
"""Bytes at each end of a clip of another tool that stand for all of it."""

_KEEP_WHAT_WAS_READ = (FaultReason.TRUNCATED, FaultReason.NOT_A_TAR, FaultReason.TRAILING_DATA)


def _group(file: BinaryIO, location: str) -> tuple[dict[str, _Entry], set[str], list[ShardError]]:
    """The members of all samples, by key; the keys of samples that cannot be used; and the faults found."""
    entries: dict[str, _Entry] = {}
    broken: set[str] = set()
    faults: list[ShardError] = []
    current: str | None = None
    try:
        for member in tar_members(file, location):
            key, suffix = split_name(member.name)
            if key != current and key in entries and key not in broken:
                # Either of the two may be right: both are left out.
                detail = "occurs twice, or its files are not side by side (`tar --sort=name` puts them so)"
                faults.append(ShardError(location, FaultReason.DUPLICATE_KEY, detail, key))
                broken.add(key)
            current = key
            entry = entries.setdefault(key, _Entry(member.header, 0))
            if suffix in entry.members and key not in broken:
                faults.append(ShardError(location, FaultReason.DUPLICATE_MEMBER, f"{suffix} occurs twice", key))
                broken.add(key)
            entry.members[suffix] = member
            entry.end = member.end
    except ShardError as fault:
        faults.append(fault)
        if current is not None and fault.reason is not FaultReason.TRAILING_DATA:
            broken.add(current)  # it may have lost members
    return entries, broken, faults


def _is_foreign(file: BinaryIO, first: _Entry) -> bool:
    """Whether a shard's first sample was written by another tool."""
    record = None
    if JSON_MEMBER in first.members:
        with suppress(RecordError):
            record = parse_json(read_json_member(file, first.members[JSON_MEMBER]))
    return is_foreign(first.members, record)


def _foreign_member(entries: dict[str, _Entry], location: str) -> ShardError | None:
    """The first member that a shard of this project cannot have."""
    for key, entry in entries.items():
        for suffix, member in entry.members.items():
            if not KEY_PATTERN.fullmatch(key):
                return ShardError(location, FaultReason.FORBIDDEN_NAME, f"member {member.name!r}")
            if not MEMBER_PATTERN.fullmatch(suffix):
                return ShardError(location, FaultReason.FORBIDDEN_MEMBER, f"member {member.name!r}")
    return None


def _read_text(file: BinaryIO, entry: _Entry, key: str, foreign: bool, split: str) -> Sample:
    """A sample without its media."""
    if JSON_MEMBER not in entry.members and not foreign:
        raise RecordError("missing_member", "lacks json")
    data = read_json_member(file, entry.members[JSON_MEMBER]) if JSON_MEMBER in entry.members else None
    return text_of(set(entry.members), data, key, foreign, split)


def text_of(names: set[str], data: bytes | None, key: str, foreign: bool, split: str) -> Sample:
    """A sample without its media, from its members' names and its JSON member."""
    if foreign:
        return foreign_record(names, None if data is None else foreign_json(data), key, split)
    if data is None:
        raise RecordError("missing_member", "lacks json")
    record = parse_record(data, key)
    check_names(record, names - {JSON_MEMBER})
    return to_sample(record)


def content_checksum(file: BinaryIO | io.RawIOBase, members: Mapping[str, Member], foreign: bool) -> int:
    """CRC-32 of a sample's content.

    Of its JSON member, which has the checksums of its media. The media of other tools have none: of these, names,
    sizes and the first and last bytes are used, since reading all clips would take too long.
    """
    if not foreign:
        return zlib.crc32(read_json_member(file, members[JSON_MEMBER]))
    found = 0
    for suffix, member in sorted(members.items()):
        found = zlib.crc32(f"{suffix} {member.size}\n".encode(), found)
        for begin in (member.data, max(member.data, member.data + member.size - _ENDS_BYTES)):
            file.seek(begin)
            found = zlib.crc32(file.read(min(_ENDS_BYTES, member.data + member.size - begin)), found)
    return found


def checksum_at(file: BinaryIO, begin: int, end: int) -> int:
    """`content_checksum` of a sample of this project that lies between two offsets; -1 if it cannot be read."""
    try:
        # Header by header: listing the members strictly takes longer, and training reads them strictly.
        while begin < end:
            block = os.pread(file.fileno(), tarfile.BLOCKSIZE, begin)
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            if header.type not in REGULAR or header.size < 0:
                return -1
            member = Member(header.name, begin, begin + tarfile.BLOCKSIZE, header.size)
            if split_name(header.name)[1] == JSON_MEMBER:
                return content_checksum(file, {JSON_MEMBER: member}, foreign=False)
            begin = member.end
    except (tarfile.TarError, RecordError):
        pass
    return -1


def foreign_json(data: bytes) -> dict[str, Any]:
    """A JSON member of another tool."""
    record = parse_json(data)
    if not isinstance(record, dict):
        raise RecordError("bad_json", "the JSON member is not an object")
    return record


def read_json_member(file: BinaryIO | io.RawIOBase, member: Member) -> bytes:
    """The bytes of a JSON member, of bounded size."""
    if member.size > MAX_JSON_BYTES:
        raise RecordError("bad_json", f"the JSON member has {member.size} bytes")
    file.seek(member.data)
    return file.read(member.size)


def _check_media(file: BinaryIO, location: str, key: str, entry: _Entry, foreign: bool) -> None:
    _, members = read_members(read_part(file, location, entry.begin, entry.end), location)
    if not foreign:
        check_members(parse_record(members.pop(JSON_MEMBER), key), members)
