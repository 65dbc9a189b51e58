"""The order of training samples: an endless sequence of passes over the data, a pure function of data and seed.

In every pass the shards of a stream are permuted and taken in blocks; the samples of a block are permuted. So samples
are mixed well, and only a block's shards have to be at hand. With weights, several streams are interleaved, each in its
own passes. Nothing here depends on devices or workers: whoever knows a position knows the sample.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

WEIGHT_STEPS = 1000
"""Weights are rounded to this fraction of their sum, so that the pattern of streams repeats soon."""


class Place(NamedTuple):
    """One position of the sequence: the sample's number, and the passes over its stream before this one."""

    sample: int
    epoch: int


class SampleOrder:
    """The sequence of samples of one or several streams.

    Args:
        streams: sizes of each stream's shards. Samples are numbered through, stream by stream and shard by shard.
        weights: share of each stream; None for a single stream.
        seed: determines the permutations.
        shuffle: permute; otherwise every pass is in the order of the numbers.
        shuffle_shards: shards of a block.

    Raises:
        ValueError: a stream without samples.
    """

    def __init__(
        self,
        streams: Sequence[Sequence[int]],
        weights: Sequence[float] | None = None,
        *,
        seed: int = 0,
        shuffle: bool = True,
        shuffle_shards: int = 32,
    ) -> None:
        self.streams = [[size for size in sizes if size] for sizes in streams]
        self.sizes = [sum(sizes) for sizes in self.streams]
        if not all(self.sizes):
            raise ValueError("data.train: a source has no samples")
        self.weights = [1.0] if weights is None else list(weights)
        if len(self.weights) != len(self.streams):
            raise ValueError(f"{len(self.streams)} streams have {len(self.weights)} weights")
        self.seed = seed
        self.shuffle = shuffle
        self.shuffle_shards = shuffle_shards
        self._firsts = [sum(self.sizes[:number]) for number in range(len(self.sizes))]
        self._pattern = interleave(self.weights)
        self._passes: dict[int, tuple[int, list[int]]] = {}

    @property
    def size(self) -> int:
        """Samples of all streams; the length of an epoch."""
        return sum(self.sizes)

    def places(self, begin: int, end: int) -> list[Place]:
        """The samples at the positions from `begin` to `end`."""
        taken = self._taken(begin)
        found = []
        for position in range(begin, end):
            stream = self._pattern[position % len(self._pattern)]
            epoch, place = divmod(taken[stream], self.sizes[stream])
            found.append(Place(self._firsts[stream] + self._pass(stream, epoch)[place], epoch))
            taken[stream] += 1
        return found

    def others(self, place: Place) -> Iterator[Place]:
        """The other samples of a place's stream, in the order of its pass, from half a pass later on.

        So far away, a sample that is read in the place of another one is in another optimizer step than its own.
        """
        stream = bisect_right(self._firsts, place.sample) - 1
        samples = self._pass(stream, place.epoch)
        own = samples.index(place.sample - self._firsts[stream])
        behind = samples[own + 1 :] + samples[:own]
        half = len(behind) // 2
        for other in behind[half:] + behind[:half]:
            yield Place(self._firsts[stream] + other, place.epoch)

    def counts(self, position: int, bounds: Sequence[int]) -> list[int]:
        """How many of the samples before a position have numbers from ``bounds[i]`` to ``bounds[i + 1]``."""
        total = np.zeros(len(bounds) - 1, dtype=np.int64)
        for stream, taken in enumerate(self._taken(position)):
            epoch, rest = divmod(taken, self.sizes[stream])
            whole = np.arange(self.sizes[stream])
            begun = np.array(self._pass(stream, epoch)[:rest], dtype=np.int64)
            for times, numbers in ((epoch, whole), (1, begun)):
                owners = np.searchsorted(bounds, numbers + self._firsts[stream], side="right") - 1
                total += times * np.bincount(owners, minlength=len(total))
        return [int(count) for count in total]

    def _taken(self, position: int) -> list[int]:
        """Samples of each stream before a position."""
        rounds, rest = divmod(position, len(self._pattern))
        whole, part = Counter(self._pattern), Counter(self._pattern[:rest])
        return [rounds * whole[stream] + part[stream] for stream in range(len(self.streams))]

    def _pass(self, stream: int, epoch: int) -> list[int]:
        """One pass over a stream: numbers from 0."""
        known = self._passes.get(stream)
        if known is None or known[0] != epoch:
            known = self._passes[stream] = epoch, self._permuted(stream, epoch)
        return known[1]

    def _permuted(self, stream: int, epoch: int) -> list[int]:
        sizes = self.streams[stream]
        if not self.shuffle:
            return list(range(sum(sizes)))
        state = np.random.SeedSequence([self.seed, stream, epoch]).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(state[0]) >> 1)
        firsts = np.concatenate([[0], np.cumsum(sizes)])
        shards = torch.randperm(len(sizes), generator=generator).tolist()
        order: list[int] = []
        for begin in range(0, len(shards), self.shuffle_shards):
            block = [np.arange(firsts[s], firsts[s + 1]) for s in shards[begin : begin + self.shuffle_shards]]
            numbers = torch.from_numpy(np.concatenate(block))
            order += numbers[torch.randperm(len(numbers), generator=generator)].tolist()
        return order


def interleave(weights: Sequence[float]) -> list[int]:
    """A sequence of stream numbers, to be repeated, in which every stretch has the weights' proportions.

    At each position the stream that is furthest behind its share comes next (smooth weighted round robin), so a stretch
    of n positions has n times its share of each stream, to within one sample for two streams.
    """
    total = sum(weights)
    steps = [max(1, round(WEIGHT_STEPS * weight / total)) for weight in weights]
    divisor = int(np.gcd.reduce(steps))
    steps = [step // divisor for step in steps]
    due = [0] * len(steps)
    pattern = []
    for _ in range(sum(steps)):
        due = [behind + step for behind, step in zip(due, steps, strict=True)]
        stream = due.index(max(due))
        due[stream] -= sum(steps)
        pattern.append(stream)
    return pattern
