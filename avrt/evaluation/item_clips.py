"""From an item's files to the clip that a model gets: 8 frames, up to 10 s of audio, or one image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from avrt.evaluation.benchmarks.base import Item
from avrt.media.defaults import MAX_AUDIO_SECONDS, MAX_FRAME_PIXELS, NUM_FRAMES
from avrt.media.errors import MediaError, MediaReason
from avrt.media.isolated import read_isolated
from avrt.sample import Sample

UNREADABLE_MEDIA = "unreadable_media"
"""`Record.failure` of an item whose files exist but cannot be decoded (`MediaError`)."""

MAX_SOURCE_SECONDS = 12 * 3600.0

CLIP_TIMEOUT_SECONDS = 600.0
"""Default of the longest time for one item's files. A clip within the limits of `avrt.media` takes minutes at most;
with a shorter time, a busy machine would count questions as wrong that can be answered."""


def read_sample(
    item: Item,
    folder: str | Path,
    *,
    num_frames: int = NUM_FRAMES,
    max_audio_seconds: float = MAX_AUDIO_SECONDS,
    max_pixels: int = MAX_FRAME_PIXELS,
    timeout_seconds: float = CLIP_TIMEOUT_SECONDS,
) -> Sample:
    """The item's sample with its clip, the same for every model.

    Videos of any length give `num_frames` frames, uniformly spaced over the whole length, and the first
    `max_audio_seconds` of audio; memory does not grow with the length. Audio is read from the video, else from the
    audio file beside it. A video without audio gives a clip without audio.

    The files are read in a child of this thread, see `avrt.media.isolated`.

    Args:
        item: an item without `missing` media.
        folder: folder that the item's media paths are relative to, see `Benchmark.locate`.

    Raises:
        MediaError: a file cannot be read within the limits on time and memory; `reason` says why.
        ChildProcessError: the child does not start.
    """
    folder = Path(folder)
    files = {kind: folder / item.media[kind] for kind in ("video", "image", "audio") if kind in item.media}
    if not files:
        raise MediaError(MediaReason.NO_VIDEO, f"item {item.sample.id!r} names no media", folder)
    if "video" in files:
        files.pop("image", None)
    clip = read_isolated(
        timeout_seconds=timeout_seconds,
        **files,
        num_frames=num_frames,
        max_audio_seconds=max_audio_seconds,
        max_pixels=max_pixels,
        require_video="video" in files,
        require_audio=False,
        max_source_seconds=MAX_SOURCE_SECONDS,
    )
    return replace(item.sample, clip=clip)
