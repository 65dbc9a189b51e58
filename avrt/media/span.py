"""Presentation interval of a stream, from the file's header and its packets."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import av

from avrt.media.errors import MediaError, MediaReason

SCAN_SECONDS = 40.0
"""Up to this length every packet is read (not decoded) to find the exact presentation."""

HEADER_SLACK = (Fraction(0.5), Fraction(0.05))
"""The header's length is accepted if the packets agree to this many seconds, or this share of it (the larger one)."""


@dataclass(frozen=True)
class Span:
    """The presentation of a stream: `start` on the container's clock and `duration`, both in seconds."""

    start: Fraction
    duration: Fraction

    @property
    def slack(self) -> Fraction:
        """Tolerated difference between the header's length and the stream's real one, in seconds."""
        seconds, share = HEADER_SLACK
        return max(seconds, share * self.duration)


def presented_span(container: av.container.InputContainer, stream: av.stream.Stream) -> Span:
    """The stretch of time in which a stream is presented, edit lists applied.

    The header's length of the stream is used where there is one. Short files, and those whose header gives no length,
    are also scanned packet by packet (their container is then used up): the scan finds the true start and end, and
    files that were cut off.

    Raises:
        MediaError: ``truncated`` or ``no_duration``.
    """
    time_base = stream.time_base or Fraction(1, av.time_base)
    header = Fraction(stream.duration) * time_base if stream.duration else None
    whole = Fraction(container.duration, av.time_base) if container.duration else None
    start = Fraction(stream.start_time or 0) * time_base
    if header is not None and header > SCAN_SECONDS:
        return Span(start, header)
    if header is None and whole is not None and whole > SCAN_SECONDS:
        return Span(start, whole - max(start, Fraction(0)))
    return _span_from_packets(container, stream, header, whole)


def _span_from_packets(
    container: av.container.InputContainer, stream: av.stream.Stream, header: Fraction | None, whole: Fraction | None
) -> Span:
    """The span by a scan of all packets.

    Args:
        header, whole: lengths of the stream and of the container in seconds, as the headers say.
    """
    extents, damaged = _packet_extents(container)
    if stream.index not in extents:
        reason = MediaReason.NO_VIDEO if stream.type == "video" else MediaReason.NO_AUDIO
        raise MediaError(reason, f"the {stream.type} stream holds no data")
    if damaged:
        raise MediaError(MediaReason.TRUNCATED, "the last packet is cut off")
    first, end = extents[stream.index]
    span = Span(first, header or end - first)
    if header is not None:
        missing = first + header - end
    else:
        # A container's own length is that of its longest stream.
        missing = whole - max(extent[1] for extent in extents.values()) if whole is not None else Fraction(0)
    if missing > span.slack:
        raise MediaError(MediaReason.TRUNCATED, f"the data end {float(missing):.2f} s before the header says")
    if -missing > span.slack and header is not None:
        # Some writers store a wrong length; the packets show the real one.
        span = Span(first, end - first)
    if span.duration <= 0:
        raise MediaError(MediaReason.NO_DURATION, f"the {stream.type} stream has no length")
    return span


def _packet_extents(
    container: av.container.InputContainer,
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
        raise MediaError(MediaReason.TRUNCATED, f"reading stops: {error.strerror}") from error
    return extents, damaged
