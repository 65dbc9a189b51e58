"""Random access to the samples of shards: uncompressed tar files in WebDataset's layout, read strictly.

`avrt.data.writer` writes shards, `avrt.data.records` defines the layout of a sample, and `avrt.data.tar_index` lists
the faults that are refused.
"""

from __future__ import annotations

import glob
import hashlib
import logging
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from avrt.data.manifest import MANIFEST_NAME, ShardSummary, read_manifest
from avrt.data.records import (
    JSON_MEMBER,
    EncodedClip,
    RecordError,
    check_members,
    check_names,
    decode_clip,
    parse_record,
    to_sample,
)
from avrt.data.tar_index import Entry, FaultReason, ShardError, read_span, scan_shard
from avrt.sample import Sample

log = logging.getLogger(__name__)

OnError = Literal["raise", "skip"]
ShardPaths = str | Path | Sequence[str | Path]


class ShardSet:
    """Random access to the samples of shards, by index.

    The constructor reads and checks all tar headers and JSON members; the media of a sample are read, checked and
    decoded when the sample is read. The object can be pickled and used in worker processes: it holds no open files.

    Args:
        shards: a folder with a manifest, a tar file, a glob pattern, or a list of these.
        split: keep only the samples of this split.
        verify: also compare every byte with the manifest's SHA-256 (or the samples' own checksums) now.
        on_error: ``raise`` the first `ShardError` for damaged shards and samples, or ``skip`` them and keep the errors
            in `faults`. Without `verify`, damaged media are found when the sample is read and always raised: leaving
            the sample out would shift the others.

    Attributes:
        faults: errors of the skipped shards and samples.
        keys: the samples' ids, in order.
        splits: the samples' splits, in order.
        sources: the samples' clips, in order.
    """

    def __init__(
        self, shards: ShardPaths, *, split: str | None = None, verify: bool = False, on_error: OnError = "raise"
    ) -> None:
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error: must be 'raise' or 'skip', got {on_error!r}")
        self.split = split
        self.faults: list[ShardError] = []
        self.keys: list[str] = []
        self.splits: list[str] = []
        self.sources: list[str] = []
        self.paths: list[Path] = []
        self._on_error: OnError = on_error
        # Flat arrays instead of an object per member: a hundred thousand samples are pickled into every worker.
        self._shard_of = array("l")
        self._first = array("l", [0])
        self._names = array("h")
        self._offsets = array("q")
        self._sizes = array("q")
        self._name_list: list[str] = []
        name_numbers: dict[str, int] = {}
        seen: dict[str, Path] = {}
        digest = hashlib.sha256()
        for path, summary in find_shards(shards, self._report):
            self._add_shard(path, summary, verify, seen, name_numbers, digest)
        for key in self.keys:
            digest.update(f"{key}\n".encode())
        self._fingerprint = digest.hexdigest()
        if split is not None and not self.keys and not self.faults:
            raise ValueError(f"split: no sample of split {split!r} in {shards}")

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the samples, their order and (by the manifests) their bytes."""
        return self._fingerprint

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def record(self, index: int) -> dict[str, Any]:
        """The JSON member of a sample, checked: its text fields, and ``clip`` with duration, fps and the like."""
        path, members = self._locate(index)
        with _naming(path, self.keys[index]):
            return parse_record(read_span(path, *members[JSON_MEMBER]), self.keys[index])

    def metadata(self, index: int) -> Sample:
        """A sample without its media."""
        record = self.record(index)
        with _naming(self.path(index), self.keys[index]):
            return to_sample(record)

    def path(self, index: int) -> Path:
        """The tar file that a sample is in."""
        return self._locate(index)[0]

    def media(self, index: int) -> EncodedClip:
        """A sample's media as stored in the shard, checked but not decoded."""
        path, members = self._locate(index)
        with _naming(path, self.keys[index]):
            return _read_sample(path, self.keys[index], members)[1]

    def __getitem__(self, index: int) -> Sample:
        path, members = self._locate(index)
        with _naming(path, self.keys[index]):
            record, encoded = _read_sample(path, self.keys[index], members)
            return to_sample(record, decode_clip(encoded))

    def _locate(self, index: int) -> tuple[Path, dict[str, tuple[int, int]]]:
        if not -len(self.keys) <= index < len(self.keys):
            raise IndexError(f"sample {index} of {len(self.keys)}")
        index %= len(self.keys)
        members = range(self._first[index], self._first[index + 1])
        spans = {self._name_list[self._names[m]]: (self._offsets[m], self._sizes[m]) for m in members}
        return self.paths[self._shard_of[index]], spans

    def _report(self, fault: ShardError) -> None:
        if self._on_error == "raise":
            raise fault
        log.warning("skipped: %s", fault)
        self.faults.append(fault)

    def _add_shard(
        self,
        path: Path,
        summary: ShardSummary | None,
        verify: bool,
        seen: dict[str, Path],
        name_numbers: dict[str, int],
        digest: Any,
    ) -> None:
        entries, faults = scan_shard(path)
        for fault in faults:
            self._report(fault)
        if summary is not None:
            digest.update(f"{summary.name} {summary.sha256}\n".encode())
        else:
            digest.update(f"{path.name} {path.stat().st_size if path.exists() else 0}\n".encode())
        check_each = False
        if verify:
            check_each = summary is None or file_sha256(path) != summary.sha256
            if check_each and summary is not None and not faults:
                self._report(ShardError(path, FaultReason.CHECKSUM, "its SHA-256 is not the manifest's"))
        shard_number = len(self.paths)
        self.paths.append(path)
        for entry in entries:
            try:
                with _naming(path, entry.key):
                    record = _read_record(path, entry, check_each)
                if entry.key in seen:
                    detail = f"was also found in {seen[entry.key]}"
                    raise ShardError(path, FaultReason.DUPLICATE_KEY, detail, entry.key)
            except ShardError as fault:
                self._report(fault)
                continue
            seen[entry.key] = path
            if self.split is not None and record["split"] != self.split:
                continue
            self.keys.append(entry.key)
            self.splits.append(record["split"])
            self.sources.append(record["source"])
            self._shard_of.append(shard_number)
            for name, (offset, size) in entry.members.items():
                number = name_numbers.setdefault(name, len(name_numbers))
                if number == len(self._name_list):
                    self._name_list.append(name)
                self._names.append(number)
                self._offsets.append(offset)
                self._sizes.append(size)
            self._first.append(len(self._offsets))


def find_shards(shards: ShardPaths, report: Callable[[ShardError], None]) -> list[tuple[Path, ShardSummary | None]]:
    """Resolve folders, files and glob patterns to shards, each with its line in the manifest if there is one.

    Raises:
        ValueError: a folder without a manifest, or nothing found.
    """
    found: list[tuple[Path, ShardSummary | None]] = []
    manifests: dict[Path, dict[str, ShardSummary] | None] = {}
    for item in [shards] if isinstance(shards, str | Path) else shards:
        path = Path(item)
        if path.is_dir():
            found.extend((path / summary.name, summary) for summary in read_manifest(path).shards)
            continue
        # An existing file first: its name may hold characters with a meaning in patterns.
        matches = [path] if path.exists() else [Path(name) for name in sorted(glob.glob(str(item)))]
        if not matches:
            raise ValueError(f"shards: {item}: no such folder or file, and no file matches the pattern")
        for match in matches:
            folder = match.parent
            if folder not in manifests:
                known = (folder / MANIFEST_NAME).exists()
                manifests[folder] = {s.name: s for s in read_manifest(folder).shards} if known else None
            listed = manifests[folder]
            if listed is not None and match.name not in listed:
                report(ShardError(match, FaultReason.NOT_IN_MANIFEST, "the manifest beside it does not list it"))
                continue
            found.append((match, None if listed is None else listed[match.name]))
    if not found:
        raise ValueError(f"shards: {shards}: holds no shards")
    return found


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _naming(path: Path, key: str) -> Iterator[None]:
    """Errors in a sample's members become a `ShardError` that names shard and sample."""
    try:
        yield
    except ShardError:
        raise
    except RecordError as error:
        raise ShardError(path, FaultReason(error.reason), error.detail, key) from error
    except ValueError as error:
        raise ShardError(path, FaultReason.BAD_JSON, str(error), key) from error


def _read_record(path: Path, entry: Entry, check_media: bool) -> dict[str, Any]:
    record = parse_record(read_span(path, *entry.members[JSON_MEMBER]), entry.key)
    check_names(record, set(entry.members) - {JSON_MEMBER})
    to_sample(record)
    if check_media:
        check_members(record, {n: read_span(path, *span) for n, span in entry.members.items() if n != JSON_MEMBER})
    return record


def _read_sample(path: Path, key: str, spans: dict[str, tuple[int, int]]) -> tuple[dict[str, Any], EncodedClip]:
    """The JSON member of a sample and its media, both checked."""
    # The members of a sample follow one another: one read fetches all.
    begin = min(offset for offset, _ in spans.values())
    end = max(offset + size for offset, size in spans.values())
    data = memoryview(read_span(path, begin, end - begin))
    members = {name: bytes(data[offset - begin : offset - begin + size]) for name, (offset, size) in spans.items()}
    record = parse_record(members.pop(JSON_MEMBER), key)
    check_members(record, members)
    return record, EncodedClip(members, record["clip"])
