"""From an item's files to the clip that a model gets: frames of a video or one image, and audio."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from avrt.evaluation.benchmarks.base import Item
from avrt.evaluation.benchmarks.item_media import numbered_paths
from avrt.media.defaults import MAX_AUDIO_SECONDS, MAX_CLIP_PIXELS, MAX_FRAME_PIXELS, MIN_FRAME_PIXELS, NUM_FRAMES
from avrt.media.errors import MediaError, MediaReason
from avrt.media.isolated import read_isolated
from avrt.media.joining import one_after_another, side_by_side
from avrt.sample import SAMPLING_RATE, Clip, Sample

UNREADABLE_MEDIA = "unreadable_media"
"""`Record.failure` of an item whose files exist but cannot be decoded (`MediaError`)."""

MAX_SOURCE_SECONDS = 12 * 3600.0

MAX_FRAMES = MAX_CLIP_PIXELS // MIN_FRAME_PIXELS
"""Limit on the frames of a video: so many of the smallest size take as much memory as a clip may."""

CLIP_TIMEOUT_SECONDS = 600.0
"""Default of the longest time for one item's files. A clip within the limits of `avrt.media` takes minutes at most;
with a shorter time, a busy machine would count questions as wrong that can be answered."""


def read_sample(
    item: Item,
    folder: str | Path,
    *,
    num_frames: int = NUM_FRAMES,
    frames_per_second: float | None = None,
    max_audio_seconds: float = MAX_AUDIO_SECONDS,
    max_pixels: int = MAX_FRAME_PIXELS,
    timeout_seconds: float = CLIP_TIMEOUT_SECONDS,
) -> Sample:
    """The item's sample with its clip, the same for every model.

    Videos of any length give `num_frames` frames (or `frames_per_second`, at most `num_frames`), uniformly spaced over
    the whole length, and the first `max_audio_seconds` of audio. Memory does not grow with the length: the pixels of
    all frames are bounded, and where there are very many, each is smaller. Audio is read from the video, else from the
    audio file beside it. A video without audio gives a clip without audio. Several images and audio clips of an item
    are joined, see `avrt.media.joining`; each clip may then have `max_audio_seconds`.

    The files are read in a child of this thread, see `avrt.media.isolated`.

    Args:
        item: an item without `missing` media.
        folder: folder that the item's media paths are relative to, see `Benchmark.locate`.

    Raises:
        MediaError: a file cannot be read within the limits on time and memory; `reason` says why.
        ChildProcessError: the child does not start.
    """
    folder = Path(folder)
    video, image, audio = (
        folder / item.media[kind] if kind in item.media else None for kind in ("video", "image", "audio")
    )
    images, clips = (numbered_paths(item.media, kind) for kind in ("image", "audio"))
    if not any((video, image, audio, images, clips)):
        raise MediaError(MediaReason.NO_VIDEO, f"item {item.sample.id!r} names no media", folder)
    if video is not None:
        image = None
    read = partial(
        read_isolated,
        timeout_seconds=timeout_seconds,
        num_frames=num_frames,
        frames_per_second=frames_per_second,
        max_audio_seconds=max_audio_seconds,
        max_pixels=min(max_pixels, MAX_CLIP_PIXELS // num_frames),
        require_audio=False,
        max_source_seconds=MAX_SOURCE_SECONDS,
    )
    clip: Clip | None = None
    if video or image or audio:
        clip = read(video=video, image=image, audio=audio, require_video=video is not None)
    if images:
        parts = [read(image=folder / path, max_pixels=max_pixels // len(images)) for path in images]
        clip = side_by_side(parts, max_pixels)
    if clips:
        clip = _with_audio(clip, [read(audio=folder / path, require_video=False) for path in clips])
    return replace(item.sample, clip=clip)


def _with_audio(clip: Clip | None, parts: list[Clip]) -> Clip:
    """The clip with the joined audio of others in place of its own."""
    waveform = one_after_another(parts)
    seconds = len(waveform) / SAMPLING_RATE
    if clip is None:
        return Clip(frames=None, waveform=waveform, duration=seconds)
    return replace(clip, waveform=waveform, duration=clip.duration or seconds)
