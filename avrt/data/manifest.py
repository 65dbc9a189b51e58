"""The manifest beside a set of shards: their samples, checksums and settings.

``manifest.json`` is written last. A folder without one holds an unfinished set. It says where every sample begins, so
that opening a set reads no shard.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from avrt.files.atomic import write_atomic
from avrt.files.json_text import decode_json
from avrt.sample import KEY_PATTERN
from avrt.storage.locations import is_remote, join, read_bytes, shown

MANIFEST_NAME = "manifest.json"
MANIFEST_VERSION = 2
"""Version 1 does not list the samples of a shard."""


@dataclass(frozen=True)
class ShardSummary:
    """One shard as the manifest lists it.

    Attributes:
        samples, bytes, sha256: number of samples, size of the file and its checksum.
        splits: samples per split.
        keys: the samples' ids, in the shard's order; empty in manifests of version 1, as what follows.
        offsets: the byte where each sample begins (its first tar header). It ends where the next one begins.
        sources: the samples' clips.
        split_runs: the samples' splits in their order, as ``[split, number of samples]``.
        checksums: CRC-32 of each sample's JSON member, which has the checksums of its media; empty in older manifests.
    """

    name: str
    samples: int
    bytes: int
    sha256: str
    splits: dict[str, int]
    keys: list[str] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    split_runs: list[list[Any]] = field(default_factory=list)
    checksums: list[int] = field(default_factory=list)

    @property
    def lists_samples(self) -> bool:
        """Whether the samples are listed."""
        return len(self.keys) == self.samples

    def sample_splits(self) -> list[str]:
        """The split of each sample, in order."""
        return [split for split, count in self.split_runs for _ in range(count)]

    def check(self) -> None:
        """Refuse contradictions.

        Raises:
            ValueError: says what contradicts what.
        """
        is_name = Path(self.name).name == self.name and self.name.endswith(".tar") and self.name.isprintable()
        if not is_name or len(self.name.encode("utf-8", "replace")) > 255:  # file systems take no longer names
            raise ValueError(f"lists {self.name[:80]!r}, which is not the name of a shard")
        counts = [len(self.keys), len(self.offsets), len(self.sources), sum(count for _, count in self.split_runs)]
        if not any(counts):
            return
        if set(counts) != {self.samples} or len(self.checksums) not in (0, self.samples):
            raise ValueError(f"is damaged: its counts do not add up for {self.name}")
        if Counter(self.sample_splits()) != Counter(self.splits):
            raise ValueError(f"is damaged: its splits do not add up for {self.name}")
        if any(begin >= end for begin, end in pairwise([-1, *self.offsets, self.bytes])):
            raise ValueError(f"is damaged: its offsets are not in order for {self.name}")
        wrong = [key for key in self.keys if not KEY_PATTERN.fullmatch(key)]
        if wrong or not all(isinstance(source, str) for source in self.sources):
            raise ValueError(f"is damaged: its samples' names are wrong for {self.name}")


@dataclass(frozen=True)
class Manifest:
    """A finished set of shards.

    Attributes:
        shards: in reading order.
        settings: the settings of packing (JSON values).
        left_out: number of samples that could not be packed, by reason.
    """

    shards: tuple[ShardSummary, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """Samples in all shards."""
        return sum(shard.samples for shard in self.shards)

    @property
    def splits(self) -> dict[str, int]:
        """Samples per split in all shards."""
        return sum_counts(shard.splits for shard in self.shards)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json``, atomically."""
    write_atomic(folder / MANIFEST_NAME, manifest_bytes(manifest))


def manifest_bytes(manifest: Manifest) -> bytes:
    """The manifest as JSON, one shard per line: as compact as whole lists, and a person can read the rest."""
    content = {
        "format_version": MANIFEST_VERSION,
        "samples": manifest.samples,
        "bytes": sum(shard.bytes for shard in manifest.shards),
        "splits": manifest.splits,
        "left_out": manifest.left_out,
        "settings": manifest.settings,
    }
    head = json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True).removesuffix("\n}")
    shards = [json.dumps(asdict(s), ensure_ascii=False, separators=(",", ":")) for s in manifest.shards]
    return "".join([head, ',\n "shards": [\n', ",\n".join(shards), "\n ]\n}\n"]).encode()


def read_manifest(folder: str | Path) -> Manifest:
    """Read and check the manifest of a folder of shards, a path or a URL.

    Raises:
        ValueError: there is none (packing did not finish), or it is damaged.
    """
    path = join(str(folder), MANIFEST_NAME)
    try:
        content = decode_json(read_bytes(path))
    except FileNotFoundError as error:
        if not is_remote(folder) and (inner := folders_of_sets(folder)):
            names = ", ".join(path.name for path in inner)
            raise ValueError(
                f"{shown(folder)}: holds no {MANIFEST_NAME}, but a set of shards in each of its folders {names}; name "
                f"one of these folders, such as {inner[0]}"
            ) from error
        pattern = join(shown(folder), "*.tar")
        raise ValueError(
            f"{shown(folder)}: holds no {MANIFEST_NAME}, so it is not a finished set of shards; run `python -m avrt "
            f"pack` again to finish it, or name shards of another tool by a pattern such as {pattern}"
        ) from error
    except ValueError as error:
        raise ValueError(f"{shown(path)}: is damaged: {error}") from error
    try:
        version = content["format_version"]
        if version not in (1, MANIFEST_VERSION):
            raise ValueError(
                f"{shown(path)}: has format version {version!r}, this reader knows 1 to {MANIFEST_VERSION}; pack the "
                "clips again"
            )
        shards = tuple(ShardSummary(**shard) for shard in content["shards"])
        manifest = Manifest(shards=shards, settings=dict(content["settings"]), left_out=dict(content["left_out"]))
        stated = content["samples"]
        for shard in shards:
            try:
                shard.check()
            except ValueError as error:
                raise ValueError(f"{shown(path)}: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{shown(path)}: is damaged: {error!r}") from error
    if stated != manifest.samples:
        raise ValueError(f"{shown(path)}: is damaged: its counts do not add up")
    return manifest


def folders_of_sets(folder: str | Path) -> list[Path]:
    """The folders directly in `folder` that hold finished sets of shards, such as one per split; by name."""
    return sorted(path.parent for path in Path(folder).glob(f"*/{MANIFEST_NAME}"))


def sum_counts(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    """Add up counters by name, in alphabetic order."""
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(sorted(total.items()))
