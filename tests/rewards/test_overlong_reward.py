"""Overlong reward: hand-worked values, TRL's function."""

from __future__ import annotations

import pytest
from trl.rewards import get_soft_overlong_punishment

from avrt.rewards import OverlongReward
from avrt.sample import Completion
from tests.tiny_student import make_sample


def score(reward: OverlongReward, tokens: int) -> float:
    return reward.score([Completion(make_sample("video", 0), "", token_ids=(7,) * tokens)])[0]


@pytest.mark.parametrize(
    ("tokens", "expected"), [(0, 0.0), (80, 0.0), (81, -0.05), (90, -0.5), (99, -0.95), (100, -1.0), (101, -1.0)]
)
def test_by_hand(tokens: int, expected: float) -> None:
    """A limit of 100 tokens, the last 20 of them punished more and more."""
    assert score(OverlongReward(20, 100), tokens) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("cache", "longest"), [(1, 1), (7, 30), (30, 30)])
def test_trls_values(cache: int, longest: int) -> None:
    reward, theirs = OverlongReward(cache, longest), get_soft_overlong_punishment(longest, cache)
    assert [score(reward, n) for n in range(40)] == theirs([[7] * n for n in range(40)])


@pytest.mark.parametrize(("cache", "longest"), [(0, 100), (-1, 100), (101, 100)])
def test_wrong_options_are_named(cache: int, longest: int) -> None:
    with pytest.raises(ValueError, match="soft_punish_cache"):
        OverlongReward(cache, longest)


def test_a_negative_weight_would_reward_length() -> None:
    with pytest.raises(ValueError, match="weight is -1"):
        OverlongReward(20, 100, weight=-1.0)


def test_without_a_limit() -> None:
    with pytest.raises(ValueError, match="max_completion_len"):
        score(OverlongReward(20), 10)
