"""Times of numbered frames: which of them are on display at the moments that a clip is made of."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import Any

from avrt.media.errors import MediaError, MediaReason

TIMES_KEYS = ("timestamps", "frame_times", "frame_timestamps")
RATE_KEYS = ("fps", "frame_rate", "sample_fps")
DURATION_KEYS = ("duration", "duration_seconds", "video_duration")

MAX_SECONDS = 1e9
"""Longer times are not times, whatever they are; nor are NaN and infinity."""

ROUNDING_SECONDS = 1e-3
"""Written times are rounded: a frame counts as shown from this long before its time."""


def frame_times(record: Mapping[str, Any], count: int, audio_seconds: float | None) -> tuple[list[float], float]:
    """When each of `count` frames is first shown, and how long all of them last, in seconds.

    The times come from the JSON member: a list ``timestamps``, or the rate ``fps`` of these frames. Otherwise the
    frames share the clip's length equally: ``duration``, or that of the audio.

    Raises:
        MediaError: ``no_duration``: nothing says when the frames are shown, or what says it is contradictory.
    """
    duration = _number(record, DURATION_KEYS)
    length, whose = (duration, "`duration`") if duration is not None else (audio_seconds, "the audio")
    times = next((record[key] for key in TIMES_KEYS if record.get(key) is not None), None)
    if times is not None:
        starts = _starts(times, count)
        gap = median(b - a for a, b in pairwise(starts)) if count > 1 else 0.0
        end = duration if duration is not None else starts[-1] + gap
        if count == 1 and duration is None:
            end = audio_seconds or 0.0
        if end <= starts[-1] - ROUNDING_SECONDS or end <= 0:
            raise _unknown(f"the last frame is at {starts[-1]:g} s, and the clip ends at {end:g} s")
        return starts, end
    rate = _number(record, RATE_KEYS)
    if rate is not None:
        whole = count / rate
        # One frame more or less is rounding; anything else means that the rate is that of another file.
        if length is not None and abs(whole - length) > max(1.5 / rate, 0.05 * length):
            raise _unknown(f"{count} frames at `fps` {rate:g} last {whole:g} s, but {whose} {length:g} s")
        return [index / rate for index in range(count)], whole
    if length is None:
        raise _unknown(f"nothing says when the {count} frames are shown")
    return [index * length / count for index in range(count)], length


def shown_at(starts: Sequence[float], moments: Sequence[float]) -> list[int]:
    """The index of the frame on display at each moment: the last one that began by then, at first the first."""
    return [max(0, bisect_right(starts, moment + ROUNDING_SECONDS) - 1) for moment in moments]


def _starts(times: Any, count: int) -> list[float]:
    numbers = isinstance(times, list) and all(_is_number(time) and time >= 0 for time in times)
    if not numbers or len(times) != count:
        have = f"{len(times)} values" if isinstance(times, list) else f"{type(times).__name__}"
        raise _unknown(f"`timestamps` must be one time in seconds for each of the {count} frames, has {have}")
    starts = [float(time) for time in times]
    if any(a > b for a, b in pairwise(starts)):
        raise _unknown("`timestamps` are not in the order of the frames' numbers")
    return starts


def _number(record: Mapping[str, Any], keys: Sequence[str]) -> float | None:
    for key in keys:
        value = record.get(key)
        if value is not None:
            if not _is_number(value) or value <= 0:
                raise _unknown(f"`{key}` must be a positive number, is {value!r}")
            return float(value)
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MAX_SECONDS


def _unknown(finding: str) -> MediaError:
    return MediaError(
        MediaReason.NO_DURATION,
        f"{finding}; state the frames' times in the JSON member: `timestamps` in seconds, their `fps`, or `duration`",
    )
