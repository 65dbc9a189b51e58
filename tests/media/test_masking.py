"""Masked modalities: the stream stays in the prompt and says nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from avrt.media.masking import mask_clip
from tests.tiny_student import KINDS, load_student, make_sample


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mask", ["AV", "A", "V"])
def test_what_is_left(kind: str, mask: str) -> None:
    sample = make_sample(kind)
    masked = mask_clip(sample, mask)
    clip, before = masked.clip, sample.clip
    assert clip is not None
    assert before is not None
    assert (clip.frames is None) == (before.frames is None)
    assert (clip.waveform is None) == (before.waveform is None)
    if clip.frames is not None:
        expected = torch.zeros_like(before.frames) if mask == "A" else before.frames
        assert torch.equal(clip.frames, expected)
        assert clip.frames.dtype == torch.uint8
    if clip.waveform is not None:
        expected = torch.zeros_like(before.waveform) if mask == "V" else before.waveform
        assert torch.equal(clip.waveform, expected)
        assert clip.waveform.dtype == torch.float32
    assert (clip.fps, clip.timestamps, clip.duration) == (before.fps, before.timestamps, before.duration)
    assert (masked.id, masked.options, masked.answer) == (sample.id, sample.options, sample.answer)


@pytest.mark.parametrize("mask", ["A", "V"])
def test_prompts_keep_their_tokens_and_positions(student_folder: Path, mask: str) -> None:
    """Nothing but the masked stream's features differs, and those no longer depend on the clip."""
    student = load_student(student_folder)
    sample, other = make_sample(number=0), make_sample(number=3)
    prompts = [student.encoder.encode(s) for s in (sample, mask_clip(sample, mask), mask_clip(other, mask))]
    full, masked, masked_other = student.embed(prompts)
    assert torch.equal(full.input_ids, masked.input_ids)
    assert torch.equal(full.position_ids, masked.position_ids)
    hidden = "audio" if mask == "V" else "video"
    token = getattr(student.thinker.config, f"{hidden}_token_id")
    where = full.input_ids[full.media_positions] == token
    assert where.any()
    assert (~where).any()
    assert torch.equal(masked.media_features[~where], full.media_features[~where])
    assert not torch.equal(masked.media_features[where], full.media_features[where])
    assert torch.equal(masked.media_features[where], masked_other.media_features[where])


def test_unknown_mask() -> None:
    with pytest.raises(ValueError, match=r"AV, A, V, got 'B'"):
        mask_clip(make_sample(), "B")
