"""The shards that a data module reads: one set, or several sources with names and weights."""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import PurePosixPath

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from avrt.config.numbers import PositiveFloat
from avrt.data.faults import ShardError
from avrt.data.foreign_shards import cost_line
from avrt.data.id_lists import limit_samples
from avrt.data.shards import OnError, ShardSet
from avrt.sample import Sample
from avrt.storage.shard_cache import ShardCache, ShardFile
from datamodules.order import SampleOrder


@dataclass(frozen=True)
class DataSource:
    """One of several sources of training samples.

    Args:
        shards: a folder, a pattern, a URL, or a list of these.
        weight: share of the samples of every optimizer step, relative to the other sources' weights. All sources have
            one, or none: then each sample of all sources comes once per pass.
        split: take only samples of this split; None for `train_split`.
        name: names its curve ``data/samples/<name>``; by default the file name of `only` if that is one file, else the
            last part of its location.
        only: take only the samples whose ids are in this file, or in one of these: one id per line, as ``avrt subsets``
            writes them.
        never: take no sample whose id is in this file, or in one of these.
    """

    shards: str | list[str]
    weight: PositiveFloat | None = None
    split: str | None = None
    name: str | None = None
    only: str | list[str] | None = None
    never: str | list[str] | None = None


TrainShards = str | list[str | DataSource]


class SampleSources:
    """The samples of several sets of shards, numbered through.

    Args:
        names, shards: the sources.
        weights: of the sources; empty if they have none.
    """

    def __init__(self, names: Sequence[str], shards: Sequence[ShardSet], weights: Sequence[float] = ()) -> None:
        self.names = list(names)
        self.shards = list(shards)
        self.weights = list(weights)
        self.bounds = [0, *accumulate(len(each) for each in self.shards)]

    def __len__(self) -> int:
        return self.bounds[-1]

    def __getitem__(self, number: int) -> Sample:
        shards, index = self._locate(number)
        return shards[index]

    def members(self, number: int) -> dict[str, bytes]:
        """See `ShardSet.members`."""
        shards, index = self._locate(number)
        return shards.members(index)

    def decode(self, number: int, members: dict[str, bytes]) -> Sample:
        """See `ShardSet.decode`."""
        shards, index = self._locate(number)
        return shards.decode(index, members)

    def file(self, number: int) -> ShardFile:
        """The shard that a sample is in."""
        shards, index = self._locate(number)
        return shards.files[shards.shard_of(index)]

    @property
    def cache(self) -> ShardCache:
        """Where remote shards are kept."""
        return self.shards[0].cache

    @property
    def fingerprint(self) -> str:
        """Identifies the samples and their order; of a single source its own."""
        if len(self.shards) == 1:
            return self.shards[0].fingerprint
        return hashlib.sha256("\n".join(each.fingerprint for each in self.shards).encode()).hexdigest()

    def order(self, *, seed: int, shuffle: bool, shuffle_shards: int) -> SampleOrder:
        """The order of training: without weights all sources are one stream."""
        sizes = [each.shard_sizes for each in self.shards]
        streams = sizes if self.weights else [[size for each in sizes for size in each]]
        return SampleOrder(streams, self.weights or None, seed=seed, shuffle=shuffle, shuffle_shards=shuffle_shards)

    def _locate(self, number: int) -> tuple[ShardSet, int]:
        source = bisect_right(self.bounds, number) - 1
        return self.shards[source], number - self.bounds[source]


def open_sources(
    train: TrainShards, split: str | None, cache: ShardCache, setting: str, max_damaged_share: float = 0.0
) -> SampleSources:
    """Open all shards of a setting, such as ``data.train``.

    Args:
        max_damaged_share: leave out up to this share of damaged samples. A shard of another size than the manifest's
            keeps its samples' places: the damaged ones are found when they are read.

    Raises:
        ValueError: names the setting; shards are not found, or names or weights do not fit together.
        ShardError: a shard is damaged.
    """
    if isinstance(train, str) or not any(isinstance(item, DataSource) for item in train):
        return SampleSources([""], [_open(DataSource(train), split, cache, setting, max_damaged_share)])  # type: ignore[arg-type]
    sources = [item if isinstance(item, DataSource) else DataSource(item) for item in train]
    weights = [source.weight for source in sources if source.weight is not None]
    if weights and len(weights) != len(sources):
        raise ValueError(f"{setting}: some sources have a weight and some have none; give all of them one")
    names = [source.name or _name(source) for source in sources]
    for name in names:
        if names.count(name) > 1 or not re.fullmatch(r"[A-Za-z0-9._-]+", name):
            raise ValueError(
                f"{setting}: the source name {name!r} is used twice or cannot name a curve; set `name` of each source "
                "to letters, digits, '.', '_' and '-'"
            )
    shards = [
        _open(source, split, cache, f"{setting}.{name}", max_damaged_share)
        for name, source in zip(names, sources, strict=True)
    ]
    return SampleSources(names, shards, weights)


def _open(source: DataSource, split: str | None, cache: ShardCache, setting: str, max_damaged_share: float) -> ShardSet:
    try:
        on_error: OnError = "defer" if max_damaged_share else "raise"
        opened = ShardSet(source.shards, split=source.split or split, cache=cache, on_error=on_error)
        _check_left_out(opened, max_damaged_share)
        opened, notes = limit_samples(opened, source.only, source.never)
    except ShardError:
        raise
    except ValueError as error:
        raise ValueError(f"{setting}: {error}") from error
    for note in notes:
        rank_zero_info(f"{setting}: {note}")
    if opened.foreign_samples:
        rank_zero_info(f"{setting}: {cost_line(opened.foreign_samples)}")
    return opened


def _check_left_out(shards: ShardSet, max_damaged_share: float) -> None:
    """Check the damage that was found on opening.

    Raises:
        ShardError: a whole shard is refused (nobody knows how many samples are lost), or too many samples are damaged.
    """
    for fault in shards.faults:
        if fault.key is None:
            raise fault
    if len(shards.faults) > max_damaged_share * (len(shards) + len(shards.faults)):
        raise shards.faults[0]


def _name(source: DataSource) -> str:
    """``easy`` of ``only: subsets/easy.txt``; else the last part of a location that is a plain name, ``avqa`` of
    ``s3://data/avqa/*.tar``."""
    if isinstance(source.only, str):
        return PurePosixPath(source.only).stem
    first = source.shards if isinstance(source.shards, str) else source.shards[0]
    parts = [part for part in first.split("/") if re.fullmatch(r"[A-Za-z0-9._-]+", part)]
    return parts[-1] if parts else first
