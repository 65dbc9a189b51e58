"""A video stream to a few still frames: the frames on display at given moments, upright and of bounded size.

Shape letters: T frames, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any, Protocol, TypeVar

import av
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from avrt.media.defaults import MAX_CLIP_PIXELS
from avrt.media.errors import MediaError, MediaReason
from avrt.media.frame_walk import FrameWalk
from avrt.media.geometry import TOKEN_SIDE
from avrt.media.span import Span

MAX_ASPECT_RATIO = 200
"""Qwen's image processor refuses images with a longer side above this many times the shorter one."""


def segment_centers(duration: Fraction, count: int) -> tuple[Fraction, ...]:
    """The centers of `count` equal segments of a stretch that starts at 0, exactly.

    Rounded to floats, a center that falls on a frame's first moment would often get the frame before.
    """
    return tuple((2 * index + 1) * duration / (2 * count) for index in range(count))


def frames_shown_at(
    walk: FrameWalk, span: Span, seconds: Sequence[Fraction], *, max_pixels: int
) -> tuple[torch.Tensor, int, int]:
    """The frames on display at the given moments, upright and of square pixels.

    The frame on display at t is the last one whose presentation time is at most t, at any frame rate. Frames above
    `max_pixels` are scaled down (see `target_size`).

    Args:
        walk: over the video's frames, from its beginning.
        seconds: ascending moments after the start of `span`.

    Returns:
        frames uint8 ``[T, 3, H, W]``, and the display width and height of the source.

    Raises:
        MediaError: ``corrupt_video``, ``truncated``, ``too_long``, ``too_large`` or ``bad_shape``.
    """
    time_base = walk.time_base
    wanted = [(span.start + moment) / time_base for moment in seconds]
    frames: list[torch.Tensor] = []
    size = (0, 0)
    source: av.VideoFrame | None = None
    for frame in select_shown(walk.to(wanted), wanted, time_base, span.slack / time_base):
        if frame is source:
            frames.append(frames[-1])
        else:
            walk.check(frame)
            if frame.is_corrupt:
                raise MediaError(MediaReason.CORRUPT_VIDEO, f"the frame at {frame.time} s is damaged")
            upright, size = _upright(frame, walk.pixel_aspect, max_pixels)
            _check_total(len(seconds), *upright.shape[1:])
            frames.append(upright)
            source = frame
        walk.found = len(frames)
    if len({frame.shape for frame in frames}) > 1:
        raise MediaError(MediaReason.BAD_SHAPE, "the video changes its shape in the middle of the clip")
    return torch.stack(frames), *size


def _check_total(count: int, height: int, width: int) -> None:
    if count * height * width > MAX_CLIP_PIXELS:
        raise MediaError(
            MediaReason.TOO_LARGE,
            f"{count} frames of {width}x{height}, the limit on all frames of a clip is {MAX_CLIP_PIXELS} pixels; take "
            "fewer or smaller frames (num_frames, max_pixels)",
        )


class Timed(Protocol):
    """A frame with its presentation time and duration, in ticks."""

    @property
    def pts(self) -> int | None: ...

    @property
    def duration(self) -> int | None: ...


FrameT = TypeVar("FrameT", bound=Timed)


def select_shown(
    frames: Iterable[FrameT], wanted: Sequence[Fraction], time_base: Fraction, slack: Fraction
) -> Iterator[FrameT]:
    """For each wanted moment the frame on display then, in order; no more frames are taken than it needs.

    A moment before the first frame gets the first frame.

    Args:
        frames: in order of presentation; every one has a presentation time.
        wanted: ascending moments in ticks.
        time_base: seconds per tick.
        slack: the last frame stays on display for this many ticks beyond its duration.

    Raises:
        MediaError: ``corrupt_video`` without any frame; ``truncated`` if the frames end before the last moment.
    """
    previous: FrameT | None = None
    found = 0
    for frame in frames:
        assert frame.pts is not None
        while previous is not None and found < len(wanted) and wanted[found] < frame.pts:
            found += 1
            yield previous
        if found == len(wanted):
            return
        previous = frame
    if previous is None:
        raise MediaError(MediaReason.CORRUPT_VIDEO, "not one frame decodes")
    assert previous.pts is not None
    if found < len(wanted) and wanted[-1] > previous.pts + (previous.duration or 0) + slack:
        raise MediaError(MediaReason.TRUNCATED, f"the last frame is at {float(previous.pts * time_base):.2f} s")
    for _ in range(found, len(wanted)):
        yield previous


def _upright(frame: av.VideoFrame, pixel_aspect: Fraction, max_pixels: int) -> tuple[torch.Tensor, tuple[int, int]]:
    """One frame as uint8 ``[3, H, W]``, rotated as its display matrix says, and its display width and height."""
    # One thread: otherwise each frame starts one per core, and they live until the garbage collector runs.
    rgb = frame.reformat(format="rgb24", threads=1)
    # A copy: the array that PyAV hands out may be read-only, or change with the next frame.
    image = torch.from_numpy(rgb.to_ndarray().copy()).permute(2, 0, 1)
    width, height = max(1, round(frame.width * pixel_aspect)), frame.height
    transpose, flip_x, flip_y = display_transform(frame)
    if transpose:
        image = image.transpose(1, 2)
        width, height = height, width
    flips = [axis for axis, flip in ((2, flip_x), (1, flip_y)) if flip]
    if flips:
        image = image.flip(flips)
    return fit(image, width, height, max_pixels), (width, height)


def display_transform(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """How to make a decoded frame upright: (transpose, then flip left-right, then flip top-bottom).

    The display matrix maps stored (x, y) to shown (a x + c y, b x + d y). It is read whole because the angle alone
    would lose mirror images. Other angles are rounded to quarter turns.
    """
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return False, False, False
    matrix = memoryview(bytes(data)).cast("i")
    a, b, c, d = matrix[0], matrix[1], matrix[3], matrix[4]
    if abs(b) + abs(c) > abs(a) + abs(d):
        return True, c < 0, b < 0
    return False, a < 0, d < 0


def fit(image: torch.Tensor, width: int, height: int, max_pixels: int) -> torch.Tensor:
    """Scale uint8 ``[3, H, W]`` to its display size, or below `max_pixels` if that is larger."""
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise MediaError(MediaReason.BAD_SHAPE, f"{width}x{height} is longer than {MAX_ASPECT_RATIO}:1")
    size = target_size(width, height, max_pixels)
    if size == tuple(image.shape[1:]):
        return image.contiguous()
    return resize(image, list(size), interpolation=InterpolationMode.BICUBIC, antialias=True).contiguous()


def target_size(width: int, height: int, max_pixels: int) -> tuple[int, int]:
    """(height, width) of the frames kept: the display size, or less.

    Frames within the limit keep their size. Larger ones get the largest multiples of `TOKEN_SIDE` in about the same
    aspect ratio within the limit. This is the rule of Qwen's own processor: with an equal limit it has nothing left to
    scale, so a frame is resampled once, not twice.
    """
    if width * height <= max_pixels:
        return height, width
    shrink = math.sqrt(width * height / max_pixels)
    return tuple(max(TOKEN_SIDE, math.floor(side / shrink / TOKEN_SIDE) * TOKEN_SIDE) for side in (height, width))  # type: ignore[return-value]
