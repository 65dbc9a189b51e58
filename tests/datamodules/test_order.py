"""The sequence of samples: every pass is a permutation by the seed alone, and keeps to blocks of shards."""

from __future__ import annotations

from collections import Counter
from itertools import accumulate, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.order import SampleOrder, interleave

SIZES = st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any)


def numbers(order: SampleOrder, begin: int, end: int) -> list[int]:
    return [place.sample for place in order.places(begin, end)]


@settings(max_examples=60, deadline=None)
@given(sizes=SIZES, block=st.integers(1, 5), seed=st.integers(0, 3), cut=st.integers(0, 200))
def test_each_pass_has_every_sample_once(sizes: list[int], block: int, seed: int, cut: int) -> None:
    order = SampleOrder([sizes], seed=seed, shuffle_shards=block)
    total = sum(sizes)
    sequence = order.places(0, 3 * total)
    for epoch in range(3):
        part = sequence[epoch * total : (epoch + 1) * total]
        assert sorted(place.sample for place in part) == list(range(total))
        assert {place.epoch for place in part} == {epoch}
    # Whoever begins in the middle gets the same.
    again = SampleOrder([sizes], seed=seed, shuffle_shards=block)
    cut %= 3 * total
    assert again.places(cut, 3 * total) == sequence[cut:]
    assert again.places(0, cut) == sequence[:cut]


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=12), block=st.integers(1, 5), seed=st.integers(0, 3))
def test_samples_are_mixed_within_blocks_of_shards(sizes: list[int], block: int, seed: int) -> None:
    """A block's shards are done before the next block's begin."""
    bounds = [0, *accumulate(sizes)]
    owners = [shard for shard, size in enumerate(sizes) for _ in range(size)]
    sequence = [owners[i] for i in numbers(SampleOrder([sizes], seed=seed, shuffle_shards=block), 0, bounds[-1])]
    begin = 0
    while begin < len(sequence):
        shards: list[int] = []
        for shard in sequence[begin:]:
            if shard not in shards:
                shards.append(shard)
        end = next(
            end
            for end in range(begin + 1, len(sequence) + 1)
            if len(set(sequence[begin:end])) == min(block, len(shards))
            and not set(sequence[begin:end]) & set(sequence[end:])
        )
        assert end - begin == sum(sizes[shard] for shard in set(sequence[begin:end]))
        begin = end


def test_seeds_and_passes_have_orders_of_their_own() -> None:
    sizes = [4, 4, 4, 4, 4, 3]
    orders = [SampleOrder([sizes], seed=seed, shuffle_shards=2) for seed in range(5)]
    passes = {tuple(numbers(order, 23 * epoch, 23 * (epoch + 1))) for order in orders for epoch in range(5)}
    assert len(passes) == 25
    state = torch.random.get_rng_state()
    torch.manual_seed(99)
    assert numbers(SampleOrder([sizes], seed=3, shuffle_shards=2), 40, 60) == numbers(orders[3], 40, 60)
    torch.random.set_rng_state(state)


def test_without_shuffling_the_order_is_that_of_the_shards() -> None:
    assert numbers(SampleOrder([[3, 2]], shuffle=False), 0, 12) == [0, 1, 2, 3, 4] * 2 + [0, 1]


def test_known_order() -> None:
    """A resumed run must find the order of the run before, also with another version of this project."""
    assert numbers(SampleOrder([[2, 3, 2]], seed=7, shuffle_shards=2), 0, 14) == [
        5,
        6,
        2,
        4,
        3,
        1,
        0,
        1,
        5,
        0,
        6,
        4,
        2,
        3,
    ]


@settings(max_examples=40, deadline=None)
@given(
    weights=st.lists(st.floats(0.01, 100), min_size=1, max_size=4), begin=st.integers(0, 5000), size=st.integers(1, 400)
)
def test_every_stretch_has_the_weights_proportions(weights: list[float], begin: int, size: int) -> None:
    pattern = interleave(weights)
    counts = Counter(pattern[position % len(pattern)] for position in range(begin, begin + size))
    for stream, weight in enumerate(weights):
        share = weight / sum(weights)
        rounding = size * 1.5 * len(weights) / 1000
        assert abs(counts[stream] - size * share) <= len(weights) + rounding


@settings(max_examples=40, deadline=None)
@given(
    streams=st.lists(SIZES, min_size=2, max_size=3),
    weights=st.lists(st.sampled_from([0.1, 0.5, 1.0, 3.0]), min_size=3, max_size=3),
    seed=st.integers(0, 3),
    position=st.integers(0, 300),
)
def test_weighted_streams_run_through_their_own_passes(
    streams: list[list[int]], weights: list[float], seed: int, position: int
) -> None:
    order = SampleOrder(streams, weights[: len(streams)], seed=seed, shuffle_shards=2)
    places = order.places(0, 300)
    bounds = [0, *accumulate(map(sum, streams))]
    for begin, end in pairwise(bounds):
        own = [place for place in places if begin <= place.sample < end]
        for epoch in range(len(own) // (end - begin)):
            one_pass = own[epoch * (end - begin) : (epoch + 1) * (end - begin)]
            assert sorted(place.sample for place in one_pass) == list(range(begin, end))
            assert {place.epoch for place in one_pass} == {epoch}
    expected = [sum(begin <= p.sample < end for p in places[:position]) for begin, end in pairwise(bounds)]
    assert order.counts(position, bounds) == expected
    assert order.places(position, 300) == places[position:]


def test_counts_of_sources_that_share_a_stream() -> None:
    order = SampleOrder([[3, 2, 4]], seed=1)
    seen = numbers(order, 0, 25)
    assert order.counts(25, [0, 5, 9]) == [sum(i < 5 for i in seen), sum(i >= 5 for i in seen)]


def test_a_source_without_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="no samples"):
        SampleOrder([[3], [0]], [1.0, 1.0])
