"""Renders small media files of known content: each frame shows its number, audio is a sum of tones."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

CELL = 16
"""Side of one square of a number's bits: two macroblocks' halves, large enough to survive lossy coding."""
BITS = 12


def numbered_frame(number: int, width: int = BITS * CELL, height: int = 32) -> np.ndarray:
    """An RGB image that shows `number` in black and white squares, most significant bit first."""
    image = np.full((height, width, 3), 128, np.uint8)
    for bit in range(BITS):
        image[:, bit * CELL : (bit + 1) * CELL] = 255 if number >> (BITS - 1 - bit) & 1 else 0
    return image


def number_of(image: np.ndarray) -> int:
    """The number that an image ``[3, H, W]`` of `numbered_frame` shows."""
    row = image[:, image.shape[1] // 2].mean(0)
    return sum(1 << (BITS - 1 - bit) for bit in range(BITS) if row[bit * CELL + CELL // 2] > 127)


def write_video(
    path: Path,
    frames: Sequence[np.ndarray],
    *,
    moments: Sequence[int] | None = None,
    time_base: Fraction = Fraction(1, 10),
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    pixel_format: str = "yuv420p",
    container_options: dict[str, str] | None = None,
    audio: np.ndarray | None = None,
    audio_rate: int = 16_000,
    audio_codec: str = "pcm_s16le",
    audio_layout: str = "mono",
    audio_start: Fraction = Fraction(0),
    audio_block: int = 1024,
    rotation: int | None = None,
    matrix: Sequence[int] | None = None,
    pixel_aspect: Fraction | None = None,
) -> Path:
    """Write RGB frames ``[H, W, 3]`` shown at `moments` (in units of `time_base`; 0, 1, 2, ... by default).

    `audio` is ``[channels, S]`` int16 or float32 and begins at `audio_start` seconds.
    """
    height, width = frames[0].shape[:2]
    moments = range(len(frames)) if moments is None else moments
    with av.open(str(path), "w", options=container_options or {}) as container:
        video = container.add_stream(codec, rate=round(1 / time_base), options=options or {})
        video.width, video.height, video.pix_fmt = width, height, pixel_format
        video.codec_context.time_base = time_base
        if pixel_aspect is not None:
            video.codec_context.sample_aspect_ratio = pixel_aspect
        if rotation is not None:
            video.set_display_rotation(rotation)
        if matrix is not None:
            video.set_display_matrix(matrix)
        stream = None
        if audio is not None:
            stream = container.add_stream(audio_codec, rate=audio_rate, layout=audio_layout)
        for image, moment in zip(frames, moments, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = moment, time_base
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if stream is not None:
            assert audio is not None
            _write_audio(container, stream, audio, audio_rate, audio_layout, audio_start, audio_block)
    return path


def remux(
    source: Path, path: Path, change: Callable[[av.Packet], bool], container_options: dict[str, str] | None = None
) -> Path:
    """Copy the packets for which `change` returns True, after it may have changed their times."""
    with av.open(str(source)) as old, av.open(str(path), "w", options=container_options or {}) as new:
        streams = {stream.index: new.add_stream_from_template(stream) for stream in old.streams}
        for packet in old.demux():
            if packet.size and change(packet):
                packet.stream = streams[packet.stream.index]
                new.mux(packet)
    return path


def write_audio(path: Path, audio: np.ndarray, rate: int, *, codec: str = "pcm_s16le", layout: str = "mono") -> Path:
    """Write ``[channels, S]`` as an audio file."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        _write_audio(container, stream, audio, rate, layout, Fraction(0))
    return path


def _write_audio(container, stream, audio, rate, layout, start, block=1024) -> None:
    form = "s16p" if audio.dtype == np.int16 else "fltp"
    for begin in range(0, audio.shape[1], block):
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(audio[:, begin : begin + block]), form, layout)
        frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
        frame.pts = begin + round(start * rate)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def tone(frequency: float, seconds: float, rate: int, amplitude: float = 0.5) -> np.ndarray:
    """A sine as float64 ``[S]``."""
    return amplitude * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


def as_int16(*channels: np.ndarray) -> np.ndarray:
    """Channels in [-1, 1] as int16 ``[channels, S]``."""
    return np.round(np.stack(channels) * 32767).astype(np.int16)


def png_bomb(path: Path, side: int = 30_000) -> Path:
    """A black image of side x side pixels in about 100 kB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    rows = b"".join([packer.compress(bytes(1 + side // 8 + 1)) for _ in range(side)]) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    return path
