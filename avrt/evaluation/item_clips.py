"""From an item's files to the clips that a model gets: frames of a video, an image, and audio."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F

from avrt.evaluation.benchmarks.base import MAX_FILES, Item, paths_of
from avrt.media.defaults import MAX_AUDIO_SECONDS, MAX_CLIP_PIXELS, MAX_FRAME_PIXELS, MIN_FRAME_PIXELS, NUM_FRAMES
from avrt.media.errors import MediaError, MediaReason
from avrt.media.isolated import read_isolated
from avrt.sample import SAMPLING_RATE, Clip, Sample

UNREADABLE_MEDIA = "unreadable_media"
"""`Record.failure` of an item whose files exist but cannot be decoded (`MediaError`)."""

KINDS = ("video", "image", "audio")
"""Kinds of media, in the order in which a model gets them."""

MAX_SOURCE_SECONDS = 12 * 3600.0

MAX_FRAMES = MAX_CLIP_PIXELS // MIN_FRAME_PIXELS
"""Limit on the frames of a video: so many of the smallest size take as much memory as a clip may."""

CLIP_TIMEOUT_SECONDS = 600.0
"""Default of the longest time for one item's files. A clip within the limits of `avrt.media` takes minutes at most;
with a shorter time, a busy machine would count questions as wrong that can be answered."""

MIN_TIMEOUT_SECONDS = 1.0
"""Time that is left for a file in any case; the file then fails with the reason that it took too long."""


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
    """The item's sample with its clips, the same for every model.

    Videos of any length give `num_frames` frames (or `frames_per_second`, at most `num_frames`), uniformly spaced over
    the whole length, and the first `max_audio_seconds` of audio. Memory does not grow with the length: the pixels of
    all frames are bounded, and where there are very many, each is smaller. Audio is read from the video, else from the
    audio file beside it. A video without audio gives a clip without audio.

    Where an item has several files of a kind, each file is a clip of its own (`Sample.other_clips`): videos, then
    images, then audio. The limits on pixels and time are of all together. Each file of a tuple of audio files is a clip
    of its own too: they are the question's audio, and videos beside them are shown without theirs.

    The files are read in a child of this thread, see `avrt.media.isolated`.

    Args:
        item: an item without `missing` media.
        folder: folder that the item's media paths are relative to, see `Benchmark.locate`.

    Raises:
        MediaError: a file cannot be read within the limits on time and memory, or there are too many; `reason` says
            why.
        ChildProcessError: the child does not start.
    """
    groups = _by_clip(item)
    if not groups:
        raise MediaError(MediaReason.NO_VIDEO, f"item {item.sample.id!r} names no media", folder)
    if sum(map(len, groups)) > MAX_FILES:
        raise MediaError(MediaReason.TOO_LARGE, f"item {item.sample.id!r} has more than {MAX_FILES} files", folder)
    clips = []
    deadline = time.monotonic() + timeout_seconds
    for files in groups:
        clip = read_isolated(
            timeout_seconds=max(MIN_TIMEOUT_SECONDS, deadline - time.monotonic()),
            **{kind: Path(folder) / path for kind, path in files.items()},
            num_frames=num_frames,
            frames_per_second=frames_per_second,
            max_audio_seconds=max_audio_seconds,
            max_pixels=min(max_pixels, MAX_CLIP_PIXELS // num_frames // len(groups)),
            require_video="video" in files,
            require_audio=False,
            max_source_seconds=MAX_SOURCE_SECONDS,
        )
        # The question's audio is in files of their own then; what is heard in the video may even be the answer.
        clips.append(replace(clip, waveform=None) if "video" in files and _has_own_audio(item) else clip)
    return replace(item.sample, clip=clips[0], other_clips=tuple(clips[1:]))


def _has_own_audio(item: Item) -> bool:
    return not isinstance(item.media.get("audio", ""), str)


def _by_clip(item: Item) -> list[dict[str, str]]:
    """The files of each clip, by kind: all files are one clip, unless several of a kind are listed, or audio is."""
    files = [(kind, path) for kind in KINDS if kind in item.media for path in paths_of(item.media[kind])]
    if len({kind for kind, _ in files}) < len(files) or _has_own_audio(item):
        return [{kind: path} for kind, path in files]
    together = dict(files)
    if "video" in together:
        together.pop("image", None)
    return [together] if together else []


def join_clips(clips: Sequence[Clip]) -> Clip:
    """All clips of an item as one, to look at: frames one after the other, centered on the largest size, and audio
    likewise with a pause between."""
    if len(clips) == 1:
        return clips[0]
    images = [frame for clip in clips if clip.frames is not None for frame in clip.frames]
    height, width = (max((image.shape[side] for image in images), default=0) for side in (1, 2))
    frames = []
    for image in images:
        down, right = height - image.shape[1], width - image.shape[2]
        frames.append(F.pad(image, (right // 2, right - right // 2, down // 2, down - down // 2)))
    pause = torch.zeros(SAMPLING_RATE // 2)
    waveforms = [part for clip in clips if clip.waveform is not None for part in (clip.waveform, pause)]
    return Clip(
        frames=torch.stack(frames) if frames else None,
        timestamps=tuple(map(float, range(len(frames)))),
        fps=1.0,
        waveform=torch.cat(waveforms[:-1]) if waveforms else None,
        duration=sum(clip.duration for clip in clips),
        width=width,
        height=height,
    )
