"""Copies of shards with damage, and the samples that each damage affects, found with tarfile alone."""

from __future__ import annotations

import io
import random
import shutil
import tarfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

FLIPS = 4
"""Samples with a changed byte."""


@dataclass(frozen=True)
class Damage:
    """Attributes:
    done: the kind and the file of each damage.
    keys: of the samples that it affects.
    """

    done: tuple[str, ...]
    keys: frozenset[str]


def _members(path: Path) -> list[tarfile.TarInfo]:
    with tarfile.open(path) as tar:
        return tar.getmembers()


def _key(member: tarfile.TarInfo) -> str:
    return member.name.partition(".")[0]


def flip_byte(path: Path, rng: random.Random) -> set[str]:
    """Change one byte inside one member."""
    member = rng.choice([member for member in _members(path) if member.size])
    data = bytearray(path.read_bytes())
    data[member.offset_data + rng.randrange(member.size)] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return {_key(member)}


def truncate(path: Path, rng: random.Random) -> set[str]:
    """Cut a shard, so that all samples behind the cut are lost, and the one that it goes through."""
    members = _members(path)
    size = rng.randrange(members[len(members) // 3].offset, members[-1].offset_data)
    with path.open("r+b") as file:
        file.truncate(size)
    return {_key(member) for member in members if member.offset_data + member.size > size}


def remove_member(path: Path, rng: random.Random) -> set[str]:
    """Write a shard again without one member of one sample. All samples behind it lie at other places than the
    manifest's, where they are not found."""
    members = _members(path)
    by_key: dict[str, list[tarfile.TarInfo]] = defaultdict(list)
    for member in members:
        by_key[_key(member)].append(member)
    gone = rng.choice(by_key[rng.choice(sorted(by_key))])
    output = io.BytesIO()
    with tarfile.open(path) as source, tarfile.open(fileobj=output, mode="w", format=tarfile.USTAR_FORMAT) as target:
        for member in members:
            if member.name != gone.name:
                target.addfile(member, source.extractfile(member))
    path.write_bytes(output.getvalue())
    return {_key(member) for member in members if member.offset >= gone.offset}


def lose(path: Path, rng: random.Random) -> set[str]:
    """Delete a shard."""
    keys = {_key(member) for member in _members(path)}
    path.unlink()
    return keys


def damaged_copy(source: Path, target: Path, rng: random.Random) -> Damage:
    """Copy a folder of shards with random damage in it: flipped bytes, and each other kind in one shard."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(".pack"))
    shards = sorted(target.glob("*.tar"))
    rng.shuffle(shards)
    kinds: list[Callable[[Path, random.Random], set[str]]] = [*[flip_byte] * FLIPS, truncate, remove_member]
    if rng.random() < 0.5:
        kinds.append(lose)
    done, keys = [], set()
    for path, kind in zip(shards, kinds, strict=False):
        keys |= kind(path, rng)
        done.append(f"{kind.__name__} {path.name}")
    return Damage(tuple(done), frozenset(keys))
