"""A video stream to a few still frames: where its presentation starts and ends, which frames are shown when.

Shape letters: T frames, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from avrt.media.errors import MediaError, MediaReason

PATCH = 28
"""Side of one vision token in pixels (patch 14, merged 2 by 2)."""

MAX_ASPECT_RATIO = 200
"""Qwen's image processor refuses pictures that are longer than this many times their width."""

SEEK_GAP_SECONDS = 5.0
"""Jumping to a key frame pays only beyond this gap between two wanted frames: at 720p, decoding costs about
0.05 s per second of video, while a jump costs about 0.25 s, the way from the key frame to the wanted frame."""

SCAN_SECONDS = 8 * SEEK_GAP_SECONDS
"""Up to this length every packet is looked at (not decoded) to learn the exact presentation."""

HEADER_SLACK = (0.5, 0.05)
"""The header's length is believed if the packets agree to this many seconds, or this share of it (the larger one)."""

MAX_DECODED_PIXELS = 10**11
"""Decoding budget of one clip: 30 minutes of 480p at 30 frames per second, or 2 minutes of 1080p."""


@dataclass(frozen=True)
class Span:
    """When a stream is presented: `start` on the container's clock and `duration`, both in seconds."""

    start: Fraction
    duration: Fraction


def presented_span(container: av.container.InputContainer, stream: av.stream.Stream, path: Path) -> Span:
    """The stretch of time in which a stream is presented, edit lists applied.

    The header's length of the stream is taken where there is one. Short files, and those whose header gives no
    length, are also scanned packet by packet (their container is then used up): this finds the true start and end
    and a file that was cut off.

    Raises:
        MediaError: ``truncated`` or ``no_duration``.
    """
    time_base = stream.time_base or Fraction(1, av.time_base)
    start = Fraction(stream.start_time or 0) * time_base
    header = Fraction(stream.duration) * time_base if stream.duration else None
    whole = Fraction(container.duration, av.time_base) if container.duration else None
    if header is not None and header > SCAN_SECONDS:
        return Span(start, header)
    if header is None and whole is not None and whole > SCAN_SECONDS:
        return Span(start, whole - max(start, Fraction(0)))

    extents, damaged = _packet_extents(container, path)
    if stream.index not in extents:
        reason = MediaReason.NO_VIDEO if stream.type == "video" else MediaReason.NO_AUDIO
        raise MediaError(path, reason, f"the {stream.type} stream holds no data")
    first, end = extents[stream.index]
    duration = header or end - first
    seconds, share = (Fraction(value) for value in HEADER_SLACK)
    slack = max(seconds, share * duration)
    if damaged:
        raise MediaError(path, MediaReason.TRUNCATED, "the last packet is cut off")
    if header is not None:
        missing = first + header - end
        if -missing > slack:
            # Some writers note a wrong length; the packets are there to be seen.
            duration = end - first
    else:
        # A container's own length is that of its longest stream.
        missing = whole - max(extent[1] for extent in extents.values()) if whole is not None else Fraction(0)
    if missing > slack:
        raise MediaError(path, MediaReason.TRUNCATED, f"the data end {float(missing):.2f} s before the header says")
    if duration <= 0:
        raise MediaError(path, MediaReason.NO_DURATION, f"the {stream.type} stream tells no length")
    return Span(first, duration)


def _packet_extents(
    container: av.container.InputContainer, path: Path
) -> tuple[dict[int, tuple[Fraction, Fraction]], bool]:
    """First and last moment of each stream by its packets, and whether a packet was cut off."""
    extents: dict[int, tuple[Fraction, Fraction]] = {}
    damaged = False
    try:
        for packet in container.demux():
            if not packet.size or packet.is_discard or packet.time_base is None:
                continue
            damaged |= packet.is_corrupt
            ticks = packet.pts if packet.pts is not None else packet.dts
            if ticks is None:
                continue
            length = packet.duration or 0
            stream = packet.stream
            if not length and stream.type == "video":
                rate = stream.average_rate or stream.guessed_rate
                length = round(1 / (rate * packet.time_base)) if rate else 0
            begin, end = ticks * packet.time_base, (ticks + length) * packet.time_base
            known = extents.get(stream.index, (begin, end))
            extents[stream.index] = (min(known[0], begin), max(known[1], end))
    except av.error.FFmpegError as error:
        raise MediaError(path, MediaReason.TRUNCATED, f"reading stops: {error.strerror}") from error
    return extents, damaged


def segment_centres(duration: float, count: int) -> tuple[float, ...]:
    """The centres, in seconds, of `count` equal segments of a stretch that starts at 0."""
    return tuple((2 * index + 1) * duration / (2 * count) for index in range(count))


def frames_shown_at(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    span: Span,
    seconds: Sequence[float],
    *,
    max_pixels: int,
    path: Path,
) -> tuple[torch.Tensor, int, int]:
    """The frames on display at the given moments, upright and of square pixels.

    The frame on display at t is the last one whose presentation time is at most t, whatever the rate does; a frame
    stays on display until the next one comes. Frames above `max_pixels` are scaled down (see `target_size`).

    Args:
        seconds: ascending moments after the start of `span`.

    Returns:
        frames uint8 ``[T, 3, H, W]``, and the display width and height of the source.

    Raises:
        MediaError: ``corrupt_video``, ``truncated``, ``too_long`` or ``bad_shape``.
    """
    time_base = stream.time_base or Fraction(1, av.time_base)
    wanted = [(span.start + Fraction(moment)) / time_base for moment in seconds]
    slack = max(Fraction(HEADER_SLACK[0]), Fraction(HEADER_SLACK[1]) * span.duration) / time_base
    pixel_aspect = stream.sample_aspect_ratio or Fraction(1)
    pictures: list[torch.Tensor] = []
    size = (0, 0)
    previous: av.VideoFrame | None = None
    source: av.VideoFrame | None = None

    def show(frame: av.VideoFrame) -> None:
        nonlocal source, size
        if frame is not source:
            if frame.is_corrupt:
                raise MediaError(path, MediaReason.CORRUPT_VIDEO, f"the frame at {frame.time} s is damaged")
            picture, size = _upright(frame, pixel_aspect, max_pixels, path)
            source = frame
        else:
            picture = pictures[-1]
        pictures.append(picture)

    for frame in _walk(container, stream, wanted, pictures, path):
        assert frame.pts is not None  # `_walk` sees to it
        while previous is not None and len(pictures) < len(wanted) and wanted[len(pictures)] < frame.pts:
            show(previous)
        if len(pictures) == len(wanted):
            break
        previous = frame
    if previous is None:
        raise MediaError(path, MediaReason.CORRUPT_VIDEO, "not one frame decodes")
    assert previous.pts is not None
    if len(pictures) < len(wanted) and wanted[-1] > previous.pts + (previous.duration or 0) + slack:
        raise MediaError(path, MediaReason.TRUNCATED, f"the last frame is at {float(previous.pts * time_base):.2f} s")
    while len(pictures) < len(wanted):
        show(previous)
    if len({picture.shape for picture in pictures}) > 1:
        raise MediaError(path, MediaReason.BAD_SHAPE, "the picture changes its shape in the middle of the clip")
    return torch.stack(pictures), *size


def _walk(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    wanted: Sequence[Fraction],
    done: Sequence[torch.Tensor],
    path: Path,
) -> Iterator[av.VideoFrame]:
    """Decode in order of presentation, jumping over stretches that hold no wanted frame.

    `done` grows while the caller takes frames: ``wanted[len(done)]`` is the moment looked for next.
    """
    time_base = stream.time_base or Fraction(1, av.time_base)
    gap = Fraction(SEEK_GAP_SECONDS) / time_base
    budget = MAX_DECODED_PIXELS
    last: int | None = None
    back_off = 0.0
    restart = True
    while restart:
        restart = False
        try:
            for frame in container.decode(stream):
                budget -= frame.width * frame.height
                if budget < 0:
                    raise MediaError(
                        path, MediaReason.TOO_LONG, "too many frames to decode for the few that are wanted"
                    )
                if frame.pts is None:
                    frame.pts = 0 if last is None else last + (frame.duration or 1)
                target = wanted[min(len(done), len(wanted) - 1)]
                if back_off and frame.pts > target:
                    # The jump landed behind the wanted frame: start further ahead, at last at the beginning.
                    back_off *= 4
                    restart = True
                elif last is None or frame.pts > last:
                    last, back_off = frame.pts, 0.0
                    yield frame
                    target = wanted[min(len(done), len(wanted) - 1)]
                    if target - frame.pts > gap:
                        back_off, restart = 1.0, True
                if restart:
                    seconds_back = Fraction(back_off - 1) / time_base
                    start = Fraction(stream.start_time or 0)
                    container.seek(max(math.floor(target - seconds_back), math.floor(start)), stream=stream)
                    if target - seconds_back <= start:
                        back_off = 0.0
                    break
        except av.error.FFmpegError as error:
            raise MediaError(path, MediaReason.CORRUPT_VIDEO, f"decoding stops: {error.strerror}") from error


def _upright(
    frame: av.VideoFrame, pixel_aspect: Fraction, max_pixels: int, path: Path
) -> tuple[torch.Tensor, tuple[int, int]]:
    """One frame as uint8 ``[3, H, W]``, turned as its display matrix says, and its display width and height."""
    # A copy: the array that PyAV hands out may be read-only, or change with the next frame.
    picture = torch.from_numpy(frame.to_ndarray(format="rgb24").copy()).permute(2, 0, 1)
    width, height = max(1, round(frame.width * pixel_aspect)), frame.height
    transpose, flip_x, flip_y = display_transform(frame)
    if transpose:
        picture = picture.transpose(1, 2)
        width, height = height, width
    flips = [axis for axis, flip in ((2, flip_x), (1, flip_y)) if flip]
    if flips:
        picture = picture.flip(flips)
    return fit(picture, width, height, max_pixels, path), (width, height)


def display_transform(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """How to turn a decoded frame upright: (transpose, then flip left-right, then flip top-bottom).

    The display matrix maps stored (x, y) to shown (a x + c y, b x + d y). It is read whole because the angle alone
    would lose mirror images. Angles between the quarter turns are taken as the nearest one.
    """
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return False, False, False
    matrix = memoryview(bytes(data)).cast("i")
    a, b, c, d = matrix[0], matrix[1], matrix[3], matrix[4]
    if abs(b) + abs(c) > abs(a) + abs(d):
        return True, c < 0, b < 0
    return False, a < 0, d < 0


def fit(picture: torch.Tensor, width: int, height: int, max_pixels: int, path: Path) -> torch.Tensor:
    """Scale uint8 ``[3, H, W]`` to its display size, or below `max_pixels` if that is larger."""
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise MediaError(path, MediaReason.BAD_SHAPE, f"{width}x{height} is longer than {MAX_ASPECT_RATIO}:1")
    size = target_size(width, height, max_pixels)
    if size == tuple(picture.shape[1:]):
        return picture.contiguous()
    return resize(picture, list(size), interpolation=InterpolationMode.BICUBIC, antialias=True).contiguous()


def target_size(width: int, height: int, max_pixels: int) -> tuple[int, int]:
    """(height, width) of the frames kept: the display size, or less.

    Frames that fit are left alone, never enlarged. Larger ones become the largest multiples of `PATCH` in about the
    same aspect that fit, which is the rule of Qwen's own processor: with an equal limit it then has nothing left to
    scale, and the picture is resampled once, not twice.
    """
    if width * height <= max_pixels:
        return height, width
    shrink = math.sqrt(width * height / max_pixels)
    return tuple(max(PATCH, math.floor(side / shrink / PATCH) * PATCH) for side in (height, width))  # type: ignore[return-value]
