"""The work of packing: groups of questions, and the records in ``.pack/`` of finished groups."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from avrt.data.clip_sources import ClipSource
from avrt.data.manifest import ShardSummary
from avrt.data.records import SAMPLE_FIELDS
from avrt.files.atomic import PARTIAL_SUFFIX, write_atomic
from avrt.sample import LeftOut, Sample, check_key
from avrt.storage.uploads import OutputFolder

RECORDS_FOLDER = ".pack"
SETTINGS_NAME = "settings.json"


@dataclass(frozen=True)
class Group:
    """The questions of one shard; `inputs` is a fingerprint of them and their clips."""

    index: int
    samples: tuple[Sample, ...]
    inputs: str

    @property
    def shard_name(self) -> str:
        return f"shard-{self.index:06d}.tar"

    @property
    def record_name(self) -> str:
        return f"shard-{self.index:06d}.json"


@dataclass(frozen=True)
class GroupResult:
    """The outcome of a group.

    Attributes:
        inputs: see `Group`.
        shard: its shard, or None if no question had a usable clip.
        left_out: the questions without one.
        clips: duration in seconds, width and height in pixels of each packed question's clip, by the question's id.
    """

    inputs: str
    shard: ShardSummary | None
    left_out: tuple[LeftOut, ...]
    clips: dict[str, tuple[float, int, int]] = field(default_factory=dict)


def check_samples(samples: Sequence[Sample]) -> None:
    """Raise ValueError for ids that cannot be keys or occur twice, and sources that are not paths below a folder."""
    if not samples:
        raise ValueError("samples: there are none to pack")
    seen: set[str] = set()
    for sample in samples:
        if check_key(sample.id) in seen:
            raise ValueError(f"sample {sample.id!r} occurs twice; every question needs an id of its own")
        seen.add(sample.id)
        for name in filter(None, (sample.source, sample.audio_source)):
            if not {"", ".", ".."}.isdisjoint(name.split("/")):
                raise ValueError(f"sample {sample.id!r}: `source` must be a path below the clips' folder, got {name!r}")
        if not sample.source:
            raise ValueError(f"sample {sample.id!r}: has no `source`")


def prepare(out: OutputFolder, names: Collection[str], settings: dict[str, Any]) -> Path:
    """Make the folders, refuse shards that were made with other settings, and return the records' folder.

    Args:
        names: the files in `out`.
    """
    records = out.folder / RECORDS_FOLDER
    settings_path = records / SETTINGS_NAME
    if settings_path.exists():
        known = json.loads(settings_path.read_bytes())
        changed = sorted(name for name in settings.keys() | known.keys() if settings.get(name) != known.get(name))
        if changed:
            listing = ", ".join(f"{name} {known.get(name)!r} (now {settings.get(name)!r})" for name in changed)
            raise ValueError(
                f"{out.location}: began with other settings: {listing}; keep them or choose another folder"
            )
    elif any(name.endswith(".tar") and "/" not in name for name in names):
        raise ValueError(f"{out.location}: already holds shards that were not packed here; choose another folder")
    else:
        records.mkdir(parents=True, exist_ok=True)
        write_atomic(settings_path, json.dumps(settings, sort_keys=True).encode())
    return records


def make_groups(samples: Sequence[Sample], clips: ClipSource, samples_per_shard: int) -> list[Group]:
    """Split the questions into groups, and compute the fingerprint of each."""
    groups = []
    for index, begin in enumerate(range(0, len(samples), samples_per_shard)):
        members = tuple(samples[begin : begin + samples_per_shard])
        digest = hashlib.sha256()
        for sample in members:
            fields = {name: getattr(sample, name) for name in SAMPLE_FIELDS}
            digest.update(json.dumps([fields, *clips.state(sample)], sort_keys=True).encode())
        groups.append(Group(index, members, digest.hexdigest()))
    return groups


def finished_result(group: Group, out: OutputFolder, names: Mapping[str, int], records: Path) -> GroupResult | None:
    """The result of a group that an earlier run finished from the same input, or None.

    A shard that was packed but not published, since the run was killed, is published now.

    Args:
        names: the files in `out`, with their sizes.
    """
    path = records / group.record_name
    if not path.exists():
        return None
    content = json.loads(path.read_bytes())
    if content["inputs"] != group.inputs:
        return None
    shard = None if content["shard"] is None else ShardSummary(**content["shard"])
    if shard is not None:
        staged = out.folder / shard.name
        if staged.exists() and staged.stat().st_size == shard.bytes:
            out.publish(shard.name, shard.sha256)
        elif names.get(shard.name) != shard.bytes:
            return None
    left_out = tuple(LeftOut(**entry) for entry in content["left_out"])
    clips = {key: (duration, width, height) for key, (duration, width, height) in content.get("clips", {}).items()}
    return GroupResult(group.inputs, shard, left_out, clips)


def write_record(group: Group, result: GroupResult, records: Path) -> None:
    """Record that a group is finished."""
    write_atomic(records / group.record_name, json.dumps(asdict(result), sort_keys=True).encode())


def find_leftovers(
    groups: Sequence[Group], out: OutputFolder, names: Collection[str], records: Path
) -> tuple[list[Path], list[str]]:
    """Files of killed runs, and of groups that are no longer in the set: local paths, and names in `out`."""
    shards = {group.shard_name for group in groups}
    known = {group.record_name for group in groups} | {SETTINGS_NAME}
    partial = [*out.folder.glob(f"*{PARTIAL_SUFFIX}"), *records.glob(f"*{PARTIAL_SUFFIX}")]
    staged = {path.name for path in out.folder.glob("shard-*.tar")}
    extra = [name for name in sorted({*names, *staged}) if fnmatch(name, "shard-*.tar") and name not in shards]
    return partial + [path for path in records.glob("*.json") if path.name not in known], extra
