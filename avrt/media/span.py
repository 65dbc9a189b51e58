"""Presentation interval of a stream, from the file's header and its packets."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction

import av

from avrt.media.errors import MediaError, MediaReason

SCAN_SECONDS = 120.0
"""Up to this length every packet is read (not decoded) to find the exact presentation."""

HEADER_SLACK = (Fraction(0.5), Fraction(0.05))
"""The header's length is accepted if the packets agree to this many seconds, or this share of it (the larger one)."""

HEADER_ROUNDING = Fraction(1, 1000)
"""MP4 headers count whole milliseconds in most files. A moment between two frames would move with that."""


@dataclass(frozen=True)
class Span:
    """The presentation of a stream: `start` on the container's clock and `duration`, both in seconds.

    Attributes:
        ticks: presentation time of each packet, ascending, in the stream's time base. Empty unless every packet was
            read and has a time of its own.
    """

    start: Fraction
    duration: Fraction
    ticks: tuple[int, ...] = field(default=(), repr=False)

    @property
    def slack(self) -> Fraction:
        """Tolerated difference between the header's length and the stream's real one, in seconds."""
        seconds, share = HEADER_SLACK
        return max(seconds, share * self.duration)

    def beginning_at(self, moment: Fraction) -> Span:
        """The part from `moment` on, if that is later than the start."""
        if moment <= self.start:
            return self
        return replace(self, start=moment, duration=max(self.start + self.duration - moment, Fraction(0)))


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
    scans, is_damaged = _scan_packets(container)
    scan = scans.get(stream.index)
    if scan is None:
        reason = MediaReason.NO_VIDEO if stream.type == "video" else MediaReason.NO_AUDIO
        raise MediaError(reason, f"the {stream.type} stream holds no data")
    if is_damaged:
        raise MediaError(MediaReason.TRUNCATED, "the last packet is cut off")
    first, end = scan.first, scan.end
    span = Span(first, header or end - first, scan.ticks)
    if header is not None:
        missing = first + header - end
    else:
        # A container's own length is that of its longest stream.
        missing = whole - max(scan.end for scan in scans.values()) if whole is not None else Fraction(0)
    if missing > span.slack:
        raise MediaError(MediaReason.TRUNCATED, f"the data end {float(missing):.2f} s before the header says")
    if header is not None and (-missing > span.slack or abs(missing) <= HEADER_ROUNDING):
        # Some writers store a wrong length, and many a rounded one; the packets show the real one.
        span = replace(span, duration=end - first)
    if span.duration <= 0:
        raise MediaError(MediaReason.NO_DURATION, f"the {stream.type} stream has no length")
    return span


class _StreamScan:
    """Times of one stream's packets, in its time base."""

    def __init__(self, packet: av.Packet, ticks: int) -> None:
        stream = packet.stream
        assert packet.time_base is not None
        self.time_base = packet.time_base
        self._first = self._end = ticks
        self._times: list[int] = []
        self._all_have_times = True
        self._usual_length = 0
        if stream.type == "video":
            rate = stream.average_rate or stream.guessed_rate
            self._usual_length = round(1 / (rate * self.time_base)) if rate else 0

    def add(self, packet: av.Packet, ticks: int) -> None:
        # Integers: with fractions, this would take as long as decoding small frames.
        self._first = min(self._first, ticks)
        self._end = max(self._end, ticks + (packet.duration or self._usual_length))
        self._times.append(ticks)
        self._all_have_times &= packet.pts is not None

    def add_without_time(self) -> None:
        self._all_have_times = False

    @property
    def first(self) -> Fraction:
        return self._first * self.time_base

    @property
    def end(self) -> Fraction:
        return self._end * self.time_base

    @property
    def ticks(self) -> tuple[int, ...]:
        return tuple(sorted(self._times)) if self._all_have_times else ()


def _scan_packets(container: av.container.InputContainer) -> tuple[dict[int, _StreamScan], bool]:
    """The packets of each stream with time stamps, by its index, and whether a packet was cut off."""
    scans: dict[int, _StreamScan] = {}
    is_damaged = False
    try:
        for packet in container.demux():
            if not packet.size or packet.is_discard or packet.time_base is None:
                continue
            is_damaged |= packet.is_corrupt
            index = packet.stream_index
            ticks = packet.pts if packet.pts is not None else packet.dts
            scan = scans.get(index)
            if ticks is not None:
                if scan is None:
                    scan = scans[index] = _StreamScan(packet, ticks)
                scan.add(packet, ticks)
            elif scan is not None:
                scan.add_without_time()
    except av.error.FFmpegError as error:
        raise MediaError(MediaReason.TRUNCATED, f"reading stops: {error.strerror}") from error
    return scans, is_damaged
