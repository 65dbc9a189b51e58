"""Random access to the samples of shards: uncompressed tar files in WebDataset's layout, local or remote.

`avrt.data.writer` writes shards, `avrt.data.records` defines the layout of a sample, `avrt.data.manifest` says where
samples begin, and `avrt.data.faults` lists what is refused.
"""

from __future__ import annotations

import copy
import hashlib
import logging
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import AbstractContextManager
from io import BufferedReader
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from avrt.data.faults import FaultReason, ShardError
from avrt.data.foreign_shards import foreign_sample
from avrt.data.manifest import ShardSummary, read_manifest
from avrt.data.records import (
    JSON_MEMBER,
    EncodedClip,
    RecordError,
    check_members,
    decode_clip,
    parse_record,
    to_sample,
)
from avrt.data.shard_index import (
    ShardIndex,
    checksum_at,
    file_fault,
    index_of_manifest,
    index_of_tar,
    naming,
    read_json_member,
    text_of,
)
from avrt.data.tar_members import FileWindow, read_members, read_part, split_name, tar_members
from avrt.sample import Sample
from avrt.storage.locations import expand, is_folder, is_remote, join, parent_and_name, shown
from avrt.storage.shard_cache import ShardCache, ShardFile

log = logging.getLogger(__name__)

OnError = Literal["raise", "skip", "defer"]
ShardPaths = str | Path | Sequence[str | Path]


class ShardSet:
    """Random access to the samples of shards, by index.

    Opening reads the manifests and looks for local shards' files and sizes. A shard whose samples no manifest lists
    (an older manifest, or none beside it) is read once, headers and texts. A sample's bytes are read, checked and
    decoded when the sample is read. The object can be pickled and used in worker processes: it holds no open files.

    Args:
        shards: a folder with a manifest, a tar file, a pattern, or a list of these; paths or URLs.
        split: keep only the samples of this split. Samples from other tools that state no split belong to it.
        verify: also compare every byte with the manifest's SHA-256 (or the samples' own checksums) now.
        scan: read headers and texts of all shards now, also where a manifest lists the samples; `verify` does too.
        on_error: ``raise`` the first `ShardError` for damaged shards and samples, or ``skip`` them and keep the errors
            in `faults`. Damage that is found when a sample is read is always raised: leaving the sample out would
            shift the others. ``defer`` is ``skip``, but a shard that is lost or has another size than its manifest says
            keeps its samples' places: those that are damaged raise when they are read.
        cache: where remote shards are kept.

    Attributes:
        faults: errors of the skipped shards and samples.
        keys: the samples' ids, in order.
        splits: the samples' splits, in order.
        sources: the samples' clips, in order.
        files: the shards, in order.
        cache: where remote shards are kept.
    """

    def __init__(
        self,
        shards: ShardPaths,
        *,
        split: str | None = None,
        verify: bool = False,
        scan: bool = False,
        on_error: OnError = "raise",
        cache: ShardCache | None = None,
    ) -> None:
        if on_error not in ("raise", "skip", "defer"):
            raise ValueError(f"on_error: must be 'raise', 'skip' or 'defer', got {on_error!r}")
        self.split = split
        self.faults: list[ShardError] = []
        self.keys: list[str] = []
        self.splits: list[str] = []
        self.sources: list[str] = []
        self.files: list[ShardFile] = []
        self.cache = cache or ShardCache()
        self._on_error: OnError = on_error
        # Flat arrays instead of an object per sample: a hundred thousand of them are pickled into every worker.
        self._first = array("q", [0])
        self._foreign = bytearray()
        self._begins = array("q")
        self._ends = array("q")
        self._checksums = array("q")
        self._fingerprint: str | None = None
        self._seen: dict[str, str] = {}
        for file, summary in find_shards(shards, self._report):
            self._add(file, self._open(file, summary, verify, scan or verify))
        self._seen.clear()
        if split is not None and not self.keys and not self.faults:
            raise ValueError(f"split: no sample of split {split!r} in {_listing(shards)}")

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the samples' content and their order.

        The text of local shards is read for it, once, with the media's checksums in it. Remote shards are compared with
        their manifest when they are fetched, so what the manifest states is used.
        """
        if self._fingerprint is None:
            self._fingerprint = self._compute_fingerprint()
        return self._fingerprint

    def _compute_fingerprint(self) -> str:
        digest = hashlib.sha256()
        for file, (first, end), foreign in zip(self.files, pairwise(self._first), self._foreign, strict=True):
            digest.update(f"{_name(file)}\n".encode())
            checksums = self._checksums[first:end]
            if checksums and not foreign and not is_remote(file.location):
                spans = zip(self._begins[first:end], self._ends[first:end], strict=True)
                try:
                    with self._file(file) as opened:
                        checksums = array("q", (checksum_at(opened, *span) for span in spans))
                except ShardError:  # the shard is lost: its samples count as damaged when they are read
                    digest.update(b"lost\n")
            elif -1 in checksums:
                digest.update(f"{file.sha256}\n".encode())
            for key, checksum in zip(self.keys[first:end], checksums, strict=True):
                digest.update(f"{key} {checksum}\n".encode())
        return digest.hexdigest()

    @property
    def shard_sizes(self) -> list[int]:
        """Samples of each shard; they follow one another in the set's order."""
        return [end - begin for begin, end in zip(self._first, self._first[1:], strict=False)]

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def subset(self, keys: Container[str]) -> ShardSet:
        """The samples with these ids, in this set's order. Shards without one of them are never read."""
        found = copy.copy(self)
        kept = [index for index, key in enumerate(self.keys) if key in keys]
        found.keys, found.splits, found.sources = (
            [values[index] for index in kept] for values in (self.keys, self.splits, self.sources)
        )
        found._begins, found._ends, found._checksums = (
            array("q", (values[index] for index in kept)) for values in (self._begins, self._ends, self._checksums)
        )
        found._first = array("q", (bisect_left(kept, first) for first in self._first))
        if len(kept) < len(self):
            found._fingerprint = None
        return found

    def shard_of(self, index: int) -> int:
        """The number of the shard that a sample is in."""
        return bisect_right(self._first, self._number(index)) - 1

    def location(self, index: int) -> str:
        """Path or URL of the tar file that a sample is in."""
        return self.files[self.shard_of(index)].location

    def record(self, index: int) -> dict[str, Any]:
        """The JSON member of a sample, checked: its text fields, and ``clip`` with duration, fps and the like."""
        with self._naming(index):
            self._require_own(index)
        _, data = self._text(index)
        with self._naming(index):
            return parse_record(b"" if data is None else data, self.keys[index])

    def metadata(self, index: int) -> Sample:
        """A sample without its media."""
        names, data = self._text(index)
        with self._naming(index):
            return text_of(names, data, self.keys[index], self.is_foreign(index), self.splits[index])

    def is_foreign(self, index: int) -> bool:
        """Whether a sample is in a shard of another tool: its clip is decoded whenever it is read."""
        return bool(self._foreign[self.shard_of(index)])

    @property
    def foreign_samples(self) -> int:
        """Samples in shards of other tools."""
        return sum(size for size, foreign in zip(self.shard_sizes, self._foreign, strict=True) if foreign)

    def media(self, index: int) -> EncodedClip:
        """A sample's media as stored in the shard, checked but not decoded."""
        with self._naming(index):
            self._require_own(index)
        members = self.members(index)
        with self._naming(index):
            return self._check(index, members)[1]

    def members(self, index: int) -> dict[str, bytes]:
        """The files of a sample by the suffix of their name, as they are in the shard."""
        file = self.files[self.shard_of(index)]
        with self._file(file) as opened, self._naming(index):
            data = read_part(opened, file.location, *self._span(index))
            key, members = read_members(data, file.location)
            # The id of a sample from another tool may be in its JSON member: `decode` compares it.
            if key != self.keys[index] and not self.is_foreign(index):
                raise ShardError(file.location, FaultReason.NOT_IN_MANIFEST, f"there is sample {key!r} in its place")
            return members

    def decode(self, index: int, members: dict[str, bytes]) -> Sample:
        """A sample from its members, checked."""
        with self._naming(index):
            if self.is_foreign(index):
                sample = foreign_sample(members, self.keys[index], self.splits[index])
                if sample.id != self.keys[index]:
                    raise RecordError("not_in_manifest", f"there is sample {sample.id!r} in its place")
                return sample
            record, encoded = self._check(index, members)
            return to_sample(record, decode_clip(encoded))

    def __getitem__(self, index: int) -> Sample:
        return self.decode(index, self.members(index))

    def _check(self, index: int, members: dict[str, bytes]) -> tuple[dict[str, Any], EncodedClip]:
        """The JSON member of a sample and its media, both checked."""
        media = {name: data for name, data in members.items() if name != JSON_MEMBER}
        if JSON_MEMBER not in members:
            raise RecordError("missing_member", "lacks json")
        record = parse_record(members[JSON_MEMBER], self.keys[index])
        check_members(record, media)
        return record, EncodedClip(media, record["clip"])

    def _text(self, index: int) -> tuple[set[str], bytes | None]:
        """The names of a sample's members, and its JSON member; the media are not read."""
        file = self.files[self.shard_of(index)]
        with self._file(file) as opened, self._naming(index), FileWindow(opened, *self._span(index)) as window:
            found = {split_name(m.name)[1]: m for m in tar_members(window, file.location, part=True)}
            json = found.get(JSON_MEMBER)
            if json is None:
                return set(found), None
            return set(found), read_json_member(window, json)

    def _file(self, file: ShardFile) -> BufferedReader:
        try:
            return self.cache.open(file)
        except FileNotFoundError as error:
            if is_remote(file.location):
                raise
            raise ShardError(file.location, FaultReason.MISSING_FILE, "there is no such file") from error

    def _number(self, index: int) -> int:
        if not -len(self.keys) <= index < len(self.keys):
            raise IndexError(f"sample {index} of {len(self.keys)}")
        return index % len(self.keys)

    def _span(self, index: int) -> tuple[int, int]:
        return self._begins[index], self._ends[index]

    def _naming(self, index: int) -> AbstractContextManager[None]:
        reason = FaultReason.OTHER_TOOL if self.is_foreign(index) else FaultReason.BAD_JSON
        return naming(self.location(index), self.keys[index], reason)

    def _require_own(self, index: int) -> None:
        if self.is_foreign(index):
            raise ValueError("made by another tool; `python -m avrt pack --shards` converts it once")

    def _report(self, fault: ShardError) -> None:
        if self._on_error == "raise":
            raise fault
        log.warning("skipped: %s", fault)
        self.faults.append(fault)

    def _open(self, file: ShardFile, summary: ShardSummary | None, verify: bool, scan: bool) -> ShardIndex:
        """The index of a shard; faults are reported."""
        fault = None if is_remote(file.location) else file_fault(file)
        if self._on_error == "defer" and fault is not None and summary is not None and summary.lists_samples:
            log.warning("%s; its samples are checked as they are read", fault)
            return index_of_manifest(summary)
        if fault is not None and (not scan or fault.reason is FaultReason.MISSING_FILE):
            self._report(fault)
            return ShardIndex()
        if summary is not None and summary.lists_samples and not scan:
            return index_of_manifest(summary)
        with self._file(file) as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest() if verify else ""
            changed = verify and summary is not None and digest != summary.sha256
            check_media = verify and (changed or summary is None)
            index, faults = index_of_tar(opened, file.location, check_media=check_media, split=self.split or "train")
        whole = all(found.key is not None for found in faults)
        if changed and whole:
            faults.insert(0, ShardError(file.location, FaultReason.CHECKSUM, "its SHA-256 is not the manifest's"))
        elif fault is not None and whole:
            faults.insert(0, fault)
        elif summary is not None and not faults and not _agrees(index, summary):
            faults.append(ShardError(file.location, FaultReason.NOT_IN_MANIFEST, "the manifest lists other samples"))
        for found in faults:
            self._report(found)
        return index

    def _add(self, file: ShardFile, index: ShardIndex) -> None:
        self.files.append(file)
        self._foreign.append(index.foreign)
        for number, key in enumerate(index.keys):
            if key in self._seen:
                detail = f"was also found in {self._seen[key]}"
                self._report(ShardError(file.location, FaultReason.DUPLICATE_KEY, detail, key))
                continue
            self._seen[key] = file.location
            if self.split is not None and index.splits[number] != self.split:
                continue
            self.keys.append(key)
            self.splits.append(index.splits[number])
            self.sources.append(index.sources[number])
            self._begins.append(index.begins[number])
            self._ends.append(index.ends[number])
            self._checksums.append(index.checksums[number])
        self._first.append(len(self.keys))


def find_shards(
    shards: ShardPaths, report: Callable[[ShardError], None]
) -> list[tuple[ShardFile, ShardSummary | None]]:
    """Resolve folders, files and patterns to shards, each with its line in the manifest if there is one.

    Raises:
        ValueError: a folder without a manifest, or nothing found.
    """
    found: list[tuple[ShardFile, ShardSummary | None]] = []
    manifests: dict[str, dict[str, ShardSummary] | None] = {}
    for item in [shards] if isinstance(shards, str | Path) else shards:
        try:
            matches = expand(item)
        except ValueError as error:
            raise ValueError(f"shards: {error}") from error
        for match in matches:
            if is_folder(match):
                found += [(_listed(match, summary), summary) for summary in read_manifest(match).shards]
                continue
            folder, name = parent_and_name(match)
            if folder not in manifests:
                manifests[folder] = _manifest_beside(folder)
            listed = manifests[folder]
            if listed is None:
                if not is_remote(match) and not Path(match).exists():
                    raise ValueError(f"shards: {shown(match)}: no such folder or file")
                found.append((ShardFile(match, None, None), None))
            elif name in listed:
                found.append((_listed(folder, listed[name]), listed[name]))
            else:
                report(ShardError(match, FaultReason.NOT_IN_MANIFEST, "the manifest beside it does not list it"))
    if not found:
        raise ValueError(f"shards: {_listing(shards)}: holds no shards")
    return found


def _manifest_beside(folder: str) -> dict[str, ShardSummary] | None:
    try:
        return {summary.name: summary for summary in read_manifest(folder).shards}
    except ValueError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise
    except PermissionError as error:
        if not is_remote(folder):
            raise
        # A signature in a URL is good for one file; and S3 refuses what is missing, if one may not list the folder.
        log.warning("%s; shards beside it are read without their checksums", error)
        return None


def _listed(folder: str, summary: ShardSummary) -> ShardFile:
    return ShardFile(join(folder, summary.name), summary.bytes, summary.sha256)


def _agrees(index: ShardIndex, summary: ShardSummary) -> bool:
    if not summary.lists_samples:
        return len(index.keys) == summary.samples
    listed = index_of_manifest(summary)
    now = (index.keys, index.splits, index.sources, index.begins)
    return now == (listed.keys, listed.splits, listed.sources, listed.begins)


def _listing(shards: ShardPaths) -> str:
    return ", ".join(shown(item) for item in ([shards] if isinstance(shards, str | Path) else shards))


def _name(file: ShardFile) -> str:
    return parent_and_name(file.location)[1]
