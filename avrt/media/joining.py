"""Several images or audio clips of one question as one image or one waveform."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from avrt.media.defaults import MAX_CLIP_PIXELS
from avrt.media.errors import MediaError, MediaReason
from avrt.sample import SAMPLING_RATE, Clip

MARGIN = 10
"""Black pixels between two images."""

SILENCE_SECONDS = 1.0
"""Silence between two audio clips."""


def side_by_side(images: Sequence[Clip], max_pixels: int) -> Clip:
    """One image of several, in their order from left to right, each centered in height, over black.

    Args:
        images: clips of one image each.
        max_pixels: a larger result is scaled down, see `avrt.media.video.target_size`.

    Raises:
        MediaError: the images' shapes differ so much that the result is too large or too wide.
    """
    from avrt.media.video import fit  # loads FFmpeg, which most runs need in child processes only

    frames = [image.frames[0] for image in images if image.frames is not None]
    height = max(frame.shape[1] for frame in frames)
    width = sum(frame.shape[2] for frame in frames) + MARGIN * (len(frames) - 1)
    if height * width > MAX_CLIP_PIXELS:
        raise MediaError(MediaReason.TOO_LARGE, f"{len(frames)} images side by side are {width}x{height} pixels")
    canvas = torch.zeros(3, height, width, dtype=torch.uint8)
    left = 0
    for frame in frames:
        top = (height - frame.shape[1]) // 2
        canvas[:, top : top + frame.shape[1], left : left + frame.shape[2]] = frame
        left += frame.shape[2] + MARGIN
    return Clip(
        frames=fit(canvas, width, height, max_pixels)[None],
        timestamps=(0.0,),
        width=width,
        height=height,
        is_image=True,
    )


def one_after_another(clips: Sequence[Clip]) -> torch.Tensor:
    """The audio of several clips in their order, with silence between them: float32 ``[S]``."""
    silence = torch.zeros(round(SILENCE_SECONDS * SAMPLING_RATE))
    waveforms = [clip.waveform for clip in clips if clip.waveform is not None]
    return torch.cat([part for waveform in waveforms for part in (silence, waveform)][1:])
