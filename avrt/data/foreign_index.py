"""The samples of a shard that another tool made, in any order of its members."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from avrt.data.faults import FaultReason, ShardError
from avrt.data.foreign_members import VIDEO_EXTENSIONS, sort_members
from avrt.data.records import MAX_JSON_BYTES, RecordError, parse_json
from avrt.data.tar_members import read_part, split_name, tar_members

Span = tuple[int, int]
"""Offset and size of a member's data, in bytes."""


@dataclass(frozen=True)
class ForeignEntry:
    """One sample: the shard's location, its key there, and where its members are, by name without the key."""

    location: str
    key: str
    members: dict[str, Span]


def index_shard(file: BinaryIO, location: str) -> list[ForeignEntry]:
    """List the samples of a shard by its headers.

    The members of a sample may lie apart, as `tar` writes them in a folder's own order. Names whose keys have dots
    (``a.b.mp4`` and ``a.c.mp4``, one sample for webdataset) are told apart where they cannot be one sample. Metadata of
    webdataset and macOS (``__meta__``, ``._name``) is not a sample.

    Raises:
        ShardError: the file is no complete and harmless tar, or one name occurs twice.
    """
    found: dict[str, dict[str, Span]] = {}
    for member in tar_members(file, location):
        base = member.name.rpartition("/")[2]
        if base.startswith("__"):
            continue
        key, suffix = split_name(member.name)
        members = found.setdefault(key, {})
        if suffix in members:
            raise ShardError(location, FaultReason.DUPLICATE_MEMBER, f"member {member.name!r} occurs twice")
        members[suffix] = (member.data, member.size)
    return [
        ForeignEntry(location, own_key, members)
        for key, all_of in found.items()
        for own_key, members in _apart(key, all_of)
    ]


def read_record(file: BinaryIO, entry: ForeignEntry) -> Any:
    """The content of a sample's JSON member; None if it has none.

    Raises:
        RecordError: ``bad_json``, or several such members.
        ShardError: the shard has changed.
    """
    name = sort_members(entry.members).json
    if name is None:
        return None
    offset, size = entry.members[name]
    if size > MAX_JSON_BYTES:
        raise RecordError("bad_json", f"the JSON member has {size} bytes")
    return parse_json(read_part(file, entry.location, offset, offset + size))


def _apart(key: str, members: dict[str, Span]) -> Iterator[tuple[str, dict[str, Span]]]:
    """The samples among members that share the key up to the first dot."""
    stems: dict[str, list[str]] = {"json": [], "video": []}
    for name in members:
        stem, _, extension = name.rpartition(".")
        if extension.lower() == "json":
            stems["json"].append(stem)
        elif extension.lower() in VIDEO_EXTENSIONS:
            stems["video"].append(stem)
    if all(len(several) < 2 for several in stems.values()):
        yield key, members
        return
    samples: dict[str, dict[str, Span]] = {}
    longest_first = sorted({*stems["json"], *stems["video"]}, key=len, reverse=True)
    for name, span in members.items():
        stem = next((stem for stem in longest_first if not stem or name.startswith(f"{stem}.")), "")
        samples.setdefault(stem, {})[name.removeprefix(f"{stem}.") if stem else name] = span
    for stem, own in samples.items():
        yield (f"{key}.{stem}" if stem else key), own
