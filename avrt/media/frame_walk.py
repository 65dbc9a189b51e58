"""Decodes as few frames of a video stream as the wanted ones need, each of them once.

Two kinds of frames are left out. Those before a key frame: a second reader of the file, the scout, seeks to the last
key frame before the next wanted moment, and decoding continues there if it lies ahead. And frames of H.264 that no
other frame refers to.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from fractions import Fraction
from itertools import chain

import av

from avrt.media.errors import MediaError, MediaReason
from avrt.media.span import Span

SEEK_GAP_SECONDS = 1.0
"""The scout looks for a key frame where the next wanted moment is farther away than this."""

MAX_DECODED_PIXELS = 10**11
"""Decoding budget of one clip: 27 minutes of 1080p at 30 frames per second."""


class UnexpectedFrameError(Exception):
    """The frames do not match the packets, so frames must not be left out by the packets' times."""


class FrameWalk:
    """A video stream's frames in order of presentation, without most of those that are not wanted.

    Args:
        opener: opens the file; used again for the scout.
        span: of the stream. With its `ticks`, frames that no other frame refers to are left out.

    Attributes:
        found: number of wanted moments that have their frame, set by the caller between two frames.
    """

    def __init__(self, opener: Callable[[], AbstractContextManager[av.VideoStream]], span: Span) -> None:
        self.found = 0
        self._opener = opener
        self._ticks = span.ticks
        self._stack = ExitStack()
        self._wanted: Sequence[Fraction] = ()
        self._expected: list[int] = []
        self._can_jump = False
        self._budget = MAX_DECODED_PIXELS

    def __enter__(self) -> FrameWalk:
        with ExitStack() as stack:
            stream = stack.enter_context(self._opener())
            self.time_base = stream.time_base or Fraction(1, av.time_base)
            self.pixel_aspect = stream.sample_aspect_ratio or Fraction(1)
            self._cursor = _Cursor(stream, self._spend)
            self._scout: _Cursor | None = None
            first = next(self._cursor.frames, None)
            if first is None:
                raise MediaError(MediaReason.CORRUPT_VIDEO, "not one frame decodes")
            self._first = first
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def first_moment(self) -> Fraction:
        """The moment of the first frame, in seconds. Packets before it belong to frames whose key frame was cut off."""
        return _time(self._first) * self.time_base

    def to(self, wanted: Sequence[Fraction]) -> Iterator[av.VideoFrame]:
        """The frames up to the last wanted moment and a little farther; among them those on display at each moment.

        Args:
            wanted: ascending moments in ticks.
        """
        self._wanted = wanted
        stream = self._cursor.stream
        codec, container = stream.codec_context.name, stream.container.format.name
        # AVI stores no presentation times, and those that FFmpeg guesses for H.264 are not those of the frames. After a
        # seek in an MPEG program stream, times are one frame off.
        self._can_jump = container != "mpeg" and (container, codec) != ("avi", "h264")
        if self._can_jump and codec == "h264" and self._ticks:
            self._expected = [self._ticks[max(bisect_right(self._ticks, moment) - 1, 0)] for moment in wanted]
            self._cursor.keep = frozenset(self._expected)
        gap = Fraction(SEEK_GAP_SECONDS) / self.time_base
        last: int | None = None
        scouted_for = -1
        frame: av.VideoFrame | None = self._first
        while frame is not None:
            now = _time(frame)
            following: av.VideoFrame | None = None
            if last is None or now > last:
                last = now
                yield frame
                target = self._wanted[min(self.found, len(self._wanted) - 1)]
                if self._can_jump and target - now > gap and scouted_for != self.found:
                    scouted_for = self.found
                    following = self._jump(now, target)
            frame = following or next(self._cursor.frames, None)

    def check(self, frame: av.VideoFrame) -> None:
        """Check that the frame for the next wanted moment is the one that the packets' times promise.

        Raises:
            UnexpectedFrameError: frames were left out and it is another one, or the frames are pairs of fields, whose
                packets may have times of their own.
        """
        if self._cursor.has_skipped and (frame.pts != self._expected[self.found] or frame.interlaced_frame):
            raise UnexpectedFrameError

    def _jump(self, now: int, target: Fraction) -> av.VideoFrame | None:
        """Continue at the last key frame before the target, if it lies ahead; returns the first frame there."""
        scout = self._scout or _Cursor(self._stack.enter_context(self._opener()), self._spend)
        self._scout = scout
        scout.keep = self._cursor.keep
        # Some containers seek by decoding time or to any packet: then start farther ahead of the target.
        lead = Fraction(0)
        while target - lead > now:
            key = scout.seek(math.floor(target - lead), target)
            if key is not None and key <= now:
                break
            if key is not None and key <= target:
                try:
                    frame = next(scout.frames, None)
                except MediaError:
                    frame = None
                if frame is None or _time(frame) > target:
                    # Decoding cannot begin at this stream's key frames (gradual refresh), or the file is damaged, which
                    # decoding in order will show.
                    self._can_jump = False
                    break
                scout.has_skipped = self._cursor.has_skipped
                self._cursor, self._scout = scout, self._cursor
                return frame
            lead = max(4 * lead, 1 / self.time_base)
        return None

    def _spend(self, frame: av.VideoFrame) -> None:
        self._budget -= frame.width * frame.height
        if self._budget < 0:
            raise MediaError(MediaReason.TOO_LONG, "too many frames to decode for the few that are wanted")


class _Cursor:
    """Decodes a stream from a position on.

    Attributes:
        frames: the frames from here on, each with a presentation time.
        keep: presentation times of the frames to decode in any case; if empty, all are decoded.
        has_skipped: whether frames may have been left out.
    """

    def __init__(self, stream: av.VideoStream, spend: Callable[[av.VideoFrame], None]) -> None:
        self.stream = stream
        self.keep: frozenset[int] = frozenset()
        self.has_skipped = False
        self._spend = spend
        self._container = stream.container
        assert isinstance(self._container, av.container.InputContainer)
        self.frames = self._decode(self._container.demux(stream))

    def seek(self, position: int, limit: Fraction) -> int | None:
        """Move to a key frame, most often the last one before `position`.

        Returns:
            its presentation time; None if there is no key frame up to `limit`, or the file cannot seek.
        """
        assert isinstance(self._container, av.container.InputContainer)
        try:
            self._container.seek(max(position, self.stream.start_time or 0), stream=self.stream)
            packets = self._container.demux(self.stream)
            for packet in packets:
                if packet.is_keyframe and packet.pts is not None:
                    self.frames = self._decode(chain([packet], packets))
                    return packet.pts
                if packet.dts is not None and packet.dts > limit:
                    break
        except av.error.FFmpegError:
            pass
        return None

    def _decode(self, packets: Iterable[av.Packet]) -> Iterator[av.VideoFrame]:
        context = self.stream.codec_context
        last: int | None = None
        may_skip = False
        try:
            for packet in packets:
                skip = may_skip and bool(self.keep) and packet.pts not in self.keep
                self.has_skipped |= skip
                context.skip_frame = "NONREF" if skip else "DEFAULT"
                for frame in packet.decode():
                    self._spend(frame)
                    # Two packets may hold the two fields of a frame; then neither may be skipped.
                    may_skip = not frame.interlaced_frame
                    if frame.pts is None:
                        # Before the first stamp, Matroska keeps hidden frames with times below zero in this way.
                        if last is None:
                            continue
                        frame.pts = last + (frame.duration or 1)
                    last = frame.pts
                    yield frame
        except av.error.FFmpegError as error:
            raise MediaError(MediaReason.CORRUPT_VIDEO, f"decoding stops: {error.strerror}") from error


def _time(frame: av.VideoFrame) -> int:
    assert frame.pts is not None
    return frame.pts
