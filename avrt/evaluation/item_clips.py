"""From an item's files to the clip that a model gets: 8 frames, up to 10 s of audio, or one image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from avrt.evaluation.benchmarks.base import Item
from avrt.media.defaults import MAX_AUDIO_SECONDS, MAX_FRAME_PIXELS, NUM_FRAMES
from avrt.media.errors import MediaError, MediaReason
from avrt.media.reader import read_audio, read_clip, read_image
from avrt.sample import Clip, Sample

UNREADABLE_MEDIA = "unreadable_media"
"""`Record.failure` of an item whose files exist but cannot be decoded (`MediaError`)."""

MAX_SOURCE_SECONDS = 12 * 3600.0


def read_sample(
    item: Item,
    folder: str | Path,
    *,
    num_frames: int = NUM_FRAMES,
    max_audio_seconds: float = MAX_AUDIO_SECONDS,
    max_pixels: int = MAX_FRAME_PIXELS,
) -> Sample:
    """The item's sample with its clip, the same for every model.

    Videos of any length give `num_frames` frames, uniformly spaced over the whole length, and the first
    `max_audio_seconds` of audio; memory does not grow with the length. Audio is read from the video, else from the
    audio file beside it. A video without audio gives a clip without audio.

    Args:
        item: an item without `missing` media.
        folder: folder that the item's media paths are relative to, see `Benchmark.locate`.

    Raises:
        MediaError: a file cannot be read; `reason` says why.
    """
    folder = Path(folder)
    audio = folder / item.media["audio"] if "audio" in item.media else None
    if "video" in item.media:
        clip = read_clip(
            folder / item.media["video"],
            num_frames=num_frames,
            max_audio_seconds=max_audio_seconds,
            max_pixels=max_pixels,
            require_audio=False,
            max_source_seconds=MAX_SOURCE_SECONDS,
        )
    elif "image" in item.media:
        clip = read_image(folder / item.media["image"], max_pixels=max_pixels)
    elif audio is not None:
        return replace(item.sample, clip=_read_audio_file(audio, max_audio_seconds))
    else:
        raise MediaError(MediaReason.NO_VIDEO, f"item {item.sample.id!r} names no media", folder)
    if clip.waveform is None and audio is not None:
        separate = _read_audio_file(audio, max_audio_seconds)
        clip = replace(clip, waveform=separate.waveform, duration=clip.duration or separate.duration)
    return replace(item.sample, clip=clip)


def _read_audio_file(path: Path, max_audio_seconds: float) -> Clip:
    return read_audio(path, max_audio_seconds=max_audio_seconds, max_source_seconds=MAX_SOURCE_SECONDS)
