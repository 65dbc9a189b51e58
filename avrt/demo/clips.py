"""Rendering of the demo's clips: short mp4 files with one colored moving shape and one tone.

Two properties determine the answers: the color of the shape (`COLORS`) and the pitch of the tone (`PITCHES`).
Everything else (shape, size, path, background, image noise, duration; loudness, onset, phase, overtones, vibrato, hiss)
varies at random and is independent of both. Backgrounds are gray, so only the shape has a color.

A clip is a function of (seed, split, index) alone: equal arguments give equal bytes on one machine.

Shape letters: T frames, H height, W width, S audio samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import BinaryIO

import av
import numpy as np
from numpy.typing import NDArray

COLORS: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {
        "red": (215, 30, 35),
        "yellow": (240, 225, 45),
        "green": (35, 165, 55),
        "blue": (40, 65, 215),
    }
)
"""Name of each color and its RGB value before the brightness varies."""

PITCHES: Mapping[str, float] = MappingProxyType(
    {
        "hum": 150.0,
        "horn": 384.0,
        "bell": 983.0,
        "chirp": 2517.0,
    }
)
"""Name of each pitch and its fundamental frequency in Hz, a factor of 2.56 apart."""

SIZE = 112
"""Height and width in pixels: four visual tokens of 28 pixels a side."""

FRAME_RATE = 10
"""Frames per second of the rendered files."""

FRAME_COUNTS = (10, 12)
"""Fewest and most frames of a clip: 1 to 1.2 seconds, so that a prompt has few audio tokens (25 a second)."""

AUDIO_RATE = 32_000
"""Audio samples per second of the rendered files. Not the project's 16 kHz: packing resamples, as with real clips."""

SPLITS = ("train", "val")

RENDERER_VERSION = 3
"""Incremented whenever a change here alters the rendered clips, so that old files are not mistaken for new ones."""

_SHAPES = ("disc", "square", "diamond", "cross")
_BACKGROUNDS = ("plain", "gradient", "stripes", "checks")


@dataclass(frozen=True)
class ClipContent:
    """Content of one clip; determines every byte of the file.

    Attributes:
        color: a key of `COLORS`.
        pitch: a key of `PITCHES`.
        seed, split, index: together they seed everything that varies besides color and pitch.
    """

    color: str
    pitch: str
    seed: int
    split: str
    index: int

    def __post_init__(self) -> None:
        if self.color not in COLORS:
            raise ValueError(f"`color` must be one of {', '.join(COLORS)}; got {self.color!r}")
        if self.pitch not in PITCHES:
            raise ValueError(f"`pitch` must be one of {', '.join(PITCHES)}; got {self.pitch!r}")
        if self.split not in SPLITS:
            raise ValueError(f"`split` must be one of {', '.join(SPLITS)}; got {self.split!r}")
        if self.seed < 0 or self.index < 0:
            raise ValueError(f"`seed` and `index` must be 0 or more; got {self.seed} and {self.index}")

    @property
    def name(self) -> str:
        """File name without its extension: split and index, never the content."""
        return f"demo_{self.split}_{self.index:06d}"

    def random_generator(self) -> np.random.Generator:
        """A new generator for everything that varies; no two clips share its stream."""
        return np.random.default_rng([self.seed, SPLITS.index(self.split), self.index])


def render_clip(content: ClipContent, file: BinaryIO) -> None:
    """Write one clip as mp4 (H.264 and AAC) to the seekable `file`.

    Raises:
        OSError: the file cannot be written.
    """
    rng = content.random_generator()
    n_frames = int(rng.integers(*FRAME_COUNTS, endpoint=True))
    frames = _draw_frames(rng, COLORS[content.color], n_frames)
    waveform = _synthesize(rng, PITCHES[content.pitch], n_frames / FRAME_RATE)
    _write_mp4(file, frames, waveform)


def _draw_frames(rng: np.random.Generator, rgb: tuple[int, int, int], n_frames: int) -> NDArray[np.uint8]:
    """Draw a shape of color `rgb` that moves over a gray background; uint8 [T, H, W, 3]."""
    background = _draw_background(rng)
    inside = _draw_shape(rng, n_frames)
    color = (np.asarray(rgb) * rng.uniform(0.85, 1.05)).astype(np.int16)
    frames = np.where(inside[..., None], color, background[None, :, :, None])
    # The same noise in all three channels keeps the background gray.
    strength = int(rng.integers(0, 10, endpoint=True))
    frames += rng.integers(-strength, strength, size=inside.shape, endpoint=True, dtype=np.int16)[..., None]
    return np.clip(frames, 0, 255, out=frames).astype(np.uint8)


def _draw_background(rng: np.random.Generator) -> NDArray[np.int16]:
    """Draw a gray pattern of two random levels; int16 [H, W] in 0 to 255."""
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    first, second = rng.uniform(40, 215, size=2)
    angle = rng.uniform(0, 2 * np.pi)
    along = x * np.cos(angle) + y * np.sin(angle)
    cell = int(rng.integers(8, 28))
    match rng.choice(_BACKGROUNDS):
        case "plain":
            mix = np.zeros((SIZE, SIZE))
        case "gradient":
            mix = (along - along.min()) / (along.max() - along.min())
        case "stripes":
            mix = (along // cell) % 2
        case _:
            mix = (x // cell + y // cell) % 2
    return (first + (second - first) * mix).astype(np.int16)


def _draw_shape(rng: np.random.Generator, n_frames: int) -> NDArray[np.bool_]:
    """Mask of the pixels that the shape covers while it moves in a straight line and bounces; bool [T, H, W]."""
    radius = rng.uniform(26, 40)
    shape = rng.choice(_SHAPES)
    span = SIZE - 2 * radius
    start = rng.uniform(0, span, size=2)
    angle, speed = rng.uniform(0, 2 * np.pi), rng.uniform(10, 60)  # speed in pixels per second
    times = np.arange(n_frames)[:, None] / FRAME_RATE
    path = start + times * speed * np.array([np.sin(angle), np.cos(angle)])
    centers = radius + span - np.abs(path % (2 * span) - span)  # a triangle wave reflects the path at the borders
    pixels = np.arange(SIZE)
    dy = np.abs(pixels[None, :, None] - centers[:, 0, None, None])
    dx = np.abs(pixels[None, None, :] - centers[:, 1, None, None])
    match shape:
        case "disc":
            return dx**2 + dy**2 <= radius**2
        case "square":
            return np.maximum(dx, dy) <= 0.9 * radius
        case "diamond":
            return dx + dy <= 1.2 * radius
        case _:
            return (np.maximum(dx, dy) <= radius) & (np.minimum(dx, dy) <= 0.45 * radius)


def _synthesize(rng: np.random.Generator, frequency: float, duration: float) -> NDArray[np.float32]:
    """A tone near `frequency` Hz for most of `duration` seconds; float32 [S] in -1 to 1."""
    n_samples = round(duration * AUDIO_RATE)
    times = np.arange(n_samples, dtype=np.float64) / AUDIO_RATE
    hertz = frequency * rng.uniform(0.96, 1.04)
    # Vibrato changes the frequency by at most 1 %: phase = 2π ∫ hertz (1 + depth sin(2π rate t)) dt.
    depth, rate = rng.uniform(0, 0.01), rng.uniform(3, 7)
    phase = 2 * np.pi * hertz * (times - depth * np.cos(2 * np.pi * rate * times) / (2 * np.pi * rate))
    phase += rng.uniform(0, 2 * np.pi)
    second, third = rng.uniform(0, 0.25, size=2)
    tone = np.sin(phase) + second * np.sin(2 * phase) + third * np.sin(3 * phase)
    onset, release = rng.uniform(0, 0.2), duration - rng.uniform(0, 0.2)
    fade = 0.02  # seconds; a hard edge would click at every frequency
    envelope = np.clip((times - onset) / fade, 0, 1) * np.clip((release - times) / fade, 0, 1)
    loudness = rng.uniform(0.1, 0.6)
    hiss = rng.uniform(0.0005, 0.005) * rng.standard_normal(n_samples, dtype=np.float32)
    return (loudness * envelope * tone + hiss).clip(-1, 1).astype(np.float32)


def _write_mp4(file: BinaryIO, frames: NDArray[np.uint8], waveform: NDArray[np.float32]) -> None:
    """Encode frames [T, H, W, 3] and mono audio [S] into one mp4 file."""
    _, height, width, _ = frames.shape
    # `bitexact` keeps library versions out of the file, one encoder thread keeps the bytes the same on every run.
    with av.open(file, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        video = container.add_stream("libx264", rate=FRAME_RATE, options={"preset": "ultrafast", "crf": "23"})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.codec_context.thread_count = 1
        audio = container.add_stream("aac", rate=AUDIO_RATE, layout="mono", options={"aac_coder": "fast"})
        audio.bit_rate = 64_000
        for array in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(video.encode(None))
        samples = av.AudioFrame.from_ndarray(waveform[None, :], format="fltp", layout="mono")
        samples.sample_rate = AUDIO_RATE
        container.mux(audio.encode(samples))
        container.mux(audio.encode(None))
