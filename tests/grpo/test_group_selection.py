"""Groups with and without spread, worked out by hand."""

from __future__ import annotations

import pytest
import torch

from avrt.grpo.group_selection import has_spread, select_groups, spread_in_any

NAN = float("nan")


@pytest.mark.parametrize(
    ("scores", "spread"),
    [
        ([1, 1, 1, 0, 0, 0], [False, False]),
        ([1, 0, 1, 0, 0, 1], [True, True]),
        ([0.1, 0.1, 0.1, 0.1, 0.1, 0.2], [False, True]),
        ([1, 1, NAN, 1, 0, NAN], [False, True]),
        ([NAN, NAN, NAN, 1, NAN, NAN], [False, False]),
    ],
)
def test_groups_whose_scores_differ(scores: list[float], spread: list[bool]) -> None:
    assert has_spread(torch.tensor(scores, dtype=torch.float32), 3).tolist() == spread


def test_a_group_needs_spread_in_one_of_the_rewards() -> None:
    scores = {
        "accuracy": torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 0.0]),
        "format": torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0, 1.0]),
        "length": torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]),
    }
    total = torch.zeros(6)
    assert spread_in_any(scores, total, ["accuracy"], 2).tolist() == [True, False, False]
    assert spread_in_any(scores, total, ["accuracy", "format"], 2).tolist() == [True, True, False]
    assert spread_in_any(scores, total, ["length"], 2).tolist() == [True, True, True]
    total[0] = torch.nan  # a response without a total has advantage 0, and its group then no signal
    assert spread_in_any(scores, total, ["accuracy", "format"], 2).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("spread", "count", "chosen"),
    [
        ("1111", 4, [0, 1, 2, 3]),
        ("0101", 4, [0, 1, 2, 3]),  # nothing else was drawn
        ("010111", 3, [1, 3, 4]),  # one with spread too many
        ("010100", 4, [0, 1, 2, 3]),  # filled up with 0 and 2, in the order of the prompts
        ("000001", 2, [0, 5]),
        ("000000", 2, [0, 1]),
        ("110000", 2, [0, 1]),
        ("001101", 1, [2]),
    ],
)
def test_the_first_groups_with_spread_are_chosen(spread: str, count: int, chosen: list[int]) -> None:
    assert select_groups(torch.tensor([mark == "1" for mark in spread]), count) == chosen


def test_choosing_after_every_draw_is_choosing_from_all() -> None:
    """Groups that were not chosen before need not be kept: they are chosen from all draws together neither."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        spread = torch.rand(24, generator=generator) < 0.2
        numbers = list(range(8))
        for begin in range(8, 24, 4):
            numbers += range(begin, begin + 4)
            numbers = [numbers[i] for i in select_groups(spread[numbers], 8)]
        assert numbers == select_groups(spread, 8)
