"""Masked modalities for ablations: the stream stays in the prompt, as black frames or silent audio."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

import torch

from avrt.sample import Sample

Modalities = Literal["AV", "A", "V"]
MODALITY_MASKS: tuple[Modalities, ...] = get_args(Modalities)


def mask_clip(sample: Sample, modalities: str) -> Sample:
    """The sample with one stream of its clip masked.

    Args:
        sample: with its clip decoded.
        modalities: ``AV`` nothing masked; ``V`` same frames, silent audio; ``A`` same audio, blank (black) frames.

    Raises:
        ValueError: an unknown mask.
    """
    if modalities not in MODALITY_MASKS:
        raise ValueError(f"modalities must be one of {', '.join(MODALITY_MASKS)}, got {modalities!r}")
    clip = sample.clip
    if clip is None or modalities == "AV":
        return sample
    if modalities == "A" and clip.frames is not None:
        clip = replace(clip, frames=torch.zeros_like(clip.frames))
    if modalities == "V" and clip.waveform is not None:
        clip = replace(clip, waveform=torch.zeros_like(clip.waveform))
    return replace(sample, clip=clip)
