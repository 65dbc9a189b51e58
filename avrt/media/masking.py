"""Masked modalities for ablations: the stream stays in the prompt, as black frames or silent audio."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

import torch

from avrt.sample import Clip, Sample

Modalities = Literal["AV", "A", "V"]
MODALITY_MASKS: tuple[Modalities, ...] = get_args(Modalities)


def mask_clip(sample: Sample, modalities: str) -> Sample:
    """The sample with one stream of its clips masked.

    Args:
        sample: with its clips decoded.
        modalities: ``AV`` nothing masked; ``V`` same frames, silent audio; ``A`` same audio, blank (black) frames.

    Raises:
        ValueError: an unknown mask.
    """
    if modalities not in MODALITY_MASKS:
        raise ValueError(f"modalities must be one of {', '.join(MODALITY_MASKS)}, got {modalities!r}")
    if not sample.clips or modalities == "AV":
        return sample
    masked = [_masked(clip, modalities) for clip in sample.clips]
    return replace(sample, clip=masked[0], other_clips=tuple(masked[1:]))


def _masked(clip: Clip, modalities: str) -> Clip:
    if modalities == "A" and clip.frames is not None:
        return replace(clip, frames=torch.zeros_like(clip.frames))
    if modalities == "V" and clip.waveform is not None:
        return replace(clip, waveform=torch.zeros_like(clip.waveform))
    return clip
