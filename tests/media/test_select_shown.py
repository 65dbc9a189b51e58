"""The choice of the frames on display, without files."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avrt.media.errors import MediaError, MediaReason
from avrt.media.video import select_shown

TICKS = st.integers(0, 60)


class Frame(NamedTuple):
    pts: int
    duration: int = 1


def shown(frames: list[Frame], wanted: list[int], slack: int = 0) -> list[Frame]:
    return list(select_shown(frames, [Fraction(w) for w in wanted], Fraction(1), Fraction(slack)))


@given(st.lists(TICKS, min_size=1, max_size=12, unique=True).map(sorted), st.lists(TICKS, max_size=8).map(sorted))
def test_the_last_frame_at_or_before_each_moment(pts: list[int], wanted: list[int]) -> None:
    frames = [Frame(time) for time in pts]
    expected = [next((f for f in reversed(frames) if f.pts <= moment), frames[0]) for moment in wanted]
    assert shown(frames, wanted, slack=1000) == expected


def test_no_frame_is_decoded_after_the_last_that_is_needed() -> None:
    def frames() -> Iterator[Frame]:
        yield from (Frame(0), Frame(10), Frame(20))
        pytest.fail("one too many")

    assert list(select_shown(frames(), [Fraction(5), Fraction(15)], Fraction(1), Fraction(0))) == [Frame(0), Frame(10)]


@pytest.mark.parametrize(("last", "fails"), [(11, False), (12, False), (13, True)])
def test_a_stream_that_ends_before_the_last_moment(last: int, fails: bool) -> None:
    frames = [Frame(0), Frame(9, duration=1)]
    if not fails:
        assert shown(frames, [last], slack=2) == frames[1:]
        return
    with pytest.raises(MediaError) as caught:
        shown(frames, [last], slack=2)
    assert caught.value.reason is MediaReason.TRUNCATED


def test_no_frame_at_all() -> None:
    with pytest.raises(MediaError) as caught:
        shown([], [1])
    assert caught.value.reason is MediaReason.CORRUPT_VIDEO
