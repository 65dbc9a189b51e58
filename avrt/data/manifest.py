"""The manifest beside a set of shards: their contents, checksums and settings.

``manifest.json`` is written last. A folder without one holds an unfinished set.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from avrt.data.records import FORMAT_VERSION
from avrt.files.atomic import write_atomic

MANIFEST_NAME = "manifest.json"


@dataclass(frozen=True)
class ShardSummary:
    """One shard as the manifest lists it; `splits` counts its samples per split."""

    name: str
    samples: int
    bytes: int
    sha256: str
    splits: dict[str, int]


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
    content = {
        "format_version": FORMAT_VERSION,
        "samples": manifest.samples,
        "bytes": sum(shard.bytes for shard in manifest.shards),
        "splits": manifest.splits,
        "left_out": manifest.left_out,
        "settings": manifest.settings,
        "shards": [asdict(shard) for shard in manifest.shards],
    }
    text = json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True)
    write_atomic(folder / MANIFEST_NAME, (text + "\n").encode())


def read_manifest(folder: str | Path) -> Manifest:
    """Read and check the manifest of a folder of shards.

    Raises:
        ValueError: there is none (packing did not finish), or it is damaged.
    """
    path = Path(folder) / MANIFEST_NAME
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        if inner := folders_of_sets(folder):
            names = ", ".join(path.name for path in inner)
            raise ValueError(
                f"{folder}: holds no {MANIFEST_NAME}, but a set of shards in each of its folders {names}; name one of "
                f"these folders, such as {inner[0]}"
            ) from error
        raise ValueError(
            f"{folder}: holds no {MANIFEST_NAME}, so it is not a finished set of shards; run `python -m avrt pack` "
            "again to finish it"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path}: is damaged: {error}") from error
    try:
        if content["format_version"] != FORMAT_VERSION:
            raise ValueError(
                f"{path}: has format version {content['format_version']!r}, this reader knows {FORMAT_VERSION}; "
                "pack the clips again"
            )
        shards = tuple(ShardSummary(**shard) for shard in content["shards"])
        manifest = Manifest(shards=shards, settings=dict(content["settings"]), left_out=dict(content["left_out"]))
        stated = content["samples"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: is damaged: {error!r}") from error
    for shard in manifest.shards:
        if Path(shard.name).name != shard.name or not shard.name.endswith(".tar"):
            raise ValueError(f"{path}: lists {shard.name!r}, which is not the name of a shard")
    if stated != manifest.samples:
        raise ValueError(f"{path}: is damaged: its counts do not add up")
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
