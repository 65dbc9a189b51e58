"""Prompts are what the real processor makes, with the clip's true rate and no padding of minutes."""

from __future__ import annotations

import copy
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from avrt.families.registry import FAMILIES
from avrt.model.encoders import normalized_patches
from avrt.model.encoding import PromptEncoder
from avrt.model.student import Student
from tests.published_student import save_published_student
from tests.tiny_student import KINDS, PIXELS, TRACES, load_student, make_sample, plain_inputs


@pytest.fixture(scope="module")
def student(layout_folder: Path) -> Student:
    return load_student(layout_folder)


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_are_the_processors(student: Student, kind: str) -> None:
    """Ids, patches and grids bitwise; frames travel as 8-bit levels, and the student makes the patches."""
    prompt = student.encoder.encode(make_sample(kind, 1))
    plain = plain_inputs(student, prompt)
    assert torch.equal(prompt.input_ids, plain["input_ids"][0])
    pixels = plain.get("pixel_values", plain.get("pixel_values_videos"))
    assert (prompt.frames is None) == (pixels is None)
    if pixels is not None:
        assert prompt.frames is not None
        assert prompt.frames.dtype == torch.uint8
        assert torch.equal(normalized_patches(student.processor, prompt), pixels)
    for name in ("image_grid_thw", "video_grid_thw"):
        ours, theirs = getattr(prompt, name), plain.get(name)
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert torch.equal(ours, theirs)
    assert prompt.second_per_grid == (2.5 if kind.endswith("video") else None)


@pytest.mark.parametrize("kind", ["video", "image_audio"])
def test_frames_that_keep_their_size_are_the_clips(student: Student, kind: str) -> None:
    """So that they travel once from a data worker. Others are a copy."""
    side = 2 * math.isqrt(student.family.frame_pixels_per_token(student.thinker.config))
    settings = replace(student.config, min_pixels=side**2, max_pixels=side**2)
    student = Student(student.thinker, student.processor, settings)
    same = student.encoder.encode(make_sample(kind, height=side, width=side))
    clip = same.sample.clip
    assert clip is not None
    assert same.frames is clip.frames
    pixels = plain_inputs(student, same)
    assert torch.equal(
        normalized_patches(student.processor, same), pixels.get("pixel_values", pixels.get("pixel_values_videos"))
    )
    resized = student.encoder.encode(make_sample(kind))
    clip = resized.sample.clip
    assert resized.frames is not None
    assert clip is not None
    assert clip.frames is not None
    assert resized.frames.shape != clip.frames.shape


@pytest.mark.parametrize("kind", ["video", "image_audio"])
@pytest.mark.parametrize(
    "settings", [{"do_normalize": False}, {"do_rescale": False}, {"image_mean": (0.1, 0.2, 0.3)}], ids=str
)
def test_patches_follow_the_processors_settings(student: Student, kind: str, settings: dict[str, Any]) -> None:
    processor = copy.deepcopy(student.processor)
    for media in (processor.image_processor, processor.video_processor):
        for name, value in settings.items():
            setattr(media, name, value)
    other = Student(student.thinker, processor, student.config)
    prompt = other.encoder.encode(make_sample(kind))
    plain = plain_inputs(other, prompt)
    pixels = plain.get("pixel_values", plain.get("pixel_values_videos"))
    assert pixels is not None
    assert torch.equal(normalized_patches(processor, prompt).float(), pixels.float())


LENGTHS = [640, 641, 700, 799, 800, 801, 959, 1279, 4001, 8000, 15_999, 16_000, 16_001, 37_777, 159_999, 160_000]


@pytest.mark.parametrize("side", ["left", "right"])
def test_audio_is_where_the_mask_says(student: Student, side: str) -> None:
    """Published processors pad on either side; the features are those that the processor's own mask keeps."""
    processor = copy.deepcopy(student.processor)
    processor.feature_extractor.padding_side = side
    other = Student(student.thinker, processor, student.config)
    generator = torch.Generator().manual_seed(0)
    for samples in LENGTHS:
        sample = make_sample("audio")
        waveform = torch.randn(samples, generator=generator) * 0.1
        prompt = other.encoder.encode(replace(sample, clip=replace(sample.clip, waveform=waveform)))
        plain = plain_inputs(other, prompt)
        mask = plain["feature_attention_mask"][0].bool()
        if not mask.all():  # some processors pad to the longest audio only
            assert bool(mask[0]) is (side == "right")
        kept = plain["input_features"][0][:, mask]
        assert prompt.input_features is not None
        assert prompt.input_features.shape == kept.shape, samples
        np.testing.assert_allclose(prompt.input_features, kept, rtol=0, atol=1e-6, err_msg=str(samples))
        assert torch.equal(prompt.input_ids, plain["input_ids"][0]), samples
        embedded = other.embed([prompt])[0]
        assert len(embedded.media_features) == len(embedded.media_positions) > 0


@pytest.fixture(scope="module", params=["left", "right"])
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Student:
    """A student in the published layout, whose processor's files say where it pads."""
    folder = tmp_path_factory.mktemp("published")
    return load_student(save_published_student(folder, padding_side=request.param))


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_of_a_published_processor(published: Student, kind: str) -> None:
    """Patches bitwise, features where the mask says, as many placeholders: what plain transformers would give."""
    for samples in (700, 15_999, 37_777):
        sample = make_sample(kind)
        clip = sample.clip
        assert clip is not None
        if clip.waveform is not None:
            waveform = torch.randn(samples, generator=torch.Generator().manual_seed(samples)) * 0.1
            sample = replace(sample, clip=replace(clip, waveform=waveform))
        prompt = published.encoder.encode(sample)
        plain = plain_inputs(published, prompt)
        pixels = plain.get("pixel_values", plain.get("pixel_values_videos"))
        if pixels is not None:
            assert torch.equal(normalized_patches(published.processor, prompt), pixels)
        assert (prompt.input_features is None) == ("input_features" not in plain)
        if prompt.input_features is not None:
            kept = plain["input_features"][0][:, plain["feature_attention_mask"][0].bool()]
            np.testing.assert_allclose(prompt.input_features, kept, rtol=0, atol=1e-6)
        counts = [
            (ids == token).sum() for ids in (prompt.input_ids, plain["input_ids"][0]) for token in _media(published)
        ]
        assert counts[:3] == counts[3:]
        published.embed([prompt])


def _media(student: Student) -> tuple[int, int, int]:
    config = student.thinker.config
    return config.image_token_id, config.video_token_id, config.audio_token_id


@pytest.mark.parametrize("samples", [640, 641, 799, 800, 801, 8000, 15_999, 16_000, 160_000])
@pytest.mark.parametrize("loudness", [0.0, 0.1, 1.3])
def test_mel_features_are_the_fully_padded_ones(student: Student, samples: int, loudness: float) -> None:
    sample = make_sample("audio")
    g = torch.Generator().manual_seed(samples)
    sample = replace(sample, clip=replace(sample.clip, waveform=torch.randn(samples, generator=g) * loudness))
    prompt = student.encoder.encode(sample)
    plain = plain_inputs(student, prompt)
    if student.family is FAMILIES[0]:
        assert plain["input_features"].shape[-1] in (3000, 30_000), "30 s, and 300 s as published"
    kept = plain["input_features"][0][:, plain["feature_attention_mask"][0].bool()]
    assert prompt.input_features is not None
    assert prompt.input_features.shape == kept.shape
    np.testing.assert_allclose(prompt.input_features, kept, rtol=0, atol=1e-6)
    assert torch.equal(prompt.input_ids, plain["input_ids"][0])
    embedded = student.embed([prompt])[0]
    assert len(embedded.media_features) == len(embedded.media_positions) > 0


@pytest.mark.parametrize("kind", ["audio", "audio_video", "image_audio"])
@pytest.mark.parametrize("samples", [1, 160, 320, 639])
def test_a_blip_of_sound_is_one_token(student: Student, kind: str, samples: int) -> None:
    sample = make_sample(kind)
    clip = replace(sample.clip, waveform=sample.clip.waveform[:samples])
    prompt = student.encoder.encode(replace(sample, clip=clip))
    assert int((prompt.input_ids == student.thinker.config.audio_token_id).sum()) == 1
    silence = torch.cat([clip.waveform, torch.zeros(max(0, student.family.shortest_audio - samples))])
    filled = student.encoder.encode(replace(sample, clip=replace(clip, waveform=silence)))
    assert torch.equal(prompt.input_features, filled.input_features)
    assert torch.equal(student.embed([prompt])[0].media_features, student.embed([filled])[0].media_features)


@pytest.mark.parametrize("frames", [1, 2, 3, 7])
def test_any_number_of_frames(student: Student, frames: int) -> None:
    """Frames go in pairs; an odd last one is its own partner."""
    prompt = student.encoder.encode(make_sample("video", frames=frames))
    assert prompt.video_grid_thw is not None
    assert prompt.video_grid_thw[0, 0] == (frames + 1) // 2
    embedded = student.embed([prompt])[0]
    assert len(embedded.media_positions) == len(embedded.media_features)
    clip = prompt.sample.clip
    if frames % 2:
        doubled = replace(clip, frames=torch.cat([clip.frames, clip.frames[-1:]]))
        assert torch.equal(student.encoder.encode(replace(prompt.sample, clip=doubled)).frames, prompt.frames)


def test_rate_reaches_the_prompt(student: Student) -> None:
    """0.8 fps: two frames a grid step, 2.5 s; never the processor's default rate."""
    for seconds, expected in ((10.0, 2.5), (4.0, 1.0), (80.0, 20.0)):
        assert student.encoder.encode(make_sample("video", seconds=seconds)).second_per_grid == expected


def test_pixel_bounds(student: Student) -> None:
    """A frame is resized into the bounds, counted after merging: 28 x 28 pixels a token and pair of frames."""
    for low, high in ((PIXELS, PIXELS), (128 * 28 * 28, 768 * 28 * 28)):
        encoder = PromptEncoder(student.processor, min_pixels=low, max_pixels=high)
        for kind in ("video", "image_audio"):
            prompt = encoder.encode(make_sample(kind, height=300, width=400))
            grid = prompt.video_grid_thw if kind == "video" else prompt.image_grid_thw
            assert grid is not None
            pixels = int(grid[0, 1] * grid[0, 2]) * 14 * 14
            assert 0.5 * low <= pixels <= high
    with pytest.raises(ValueError, match="min_pixels"):
        PromptEncoder(student.processor, min_pixels=10, max_pixels=9)


def test_default_template_and_letter_format(student: Student) -> None:
    def text(**settings: str) -> str:
        encoder = PromptEncoder(student.processor, min_pixels=PIXELS, max_pixels=PIXELS, **settings)
        return student.processor.tokenizer.decode(encoder.encode(make_sample("image_audio")).input_ids)

    tokens = student.family.media_tokens
    assert "inside <think> and </think>" in text()
    assert "<think>" not in text(answer_format="letter")
    assert text().endswith("<|im_start|>assistant\n")
    assert text().index(tokens.image) < text().index(tokens.audio) < text().index("Which thing")


def test_long_prompts_are_refused_with_the_samples_id(student: Student) -> None:
    length = len(student.encoder.encode(make_sample()).input_ids)

    def encoder(limit: int) -> PromptEncoder:
        settings = student.encoder
        return PromptEncoder(student.processor, settings.template, "tags", PIXELS, PIXELS, max_prompt_tokens=limit)

    assert len(encoder(length).encode(make_sample()).input_ids) == length
    with pytest.raises(ValueError, match=rf"audio_video-0.*{length} tokens.*max_prompt_tokens \({length - 1}\)"):
        encoder(length - 1).encode(make_sample())


def test_a_sample_without_its_clip(student: Student) -> None:
    with pytest.raises(ValueError, match=r"audio_video-0.*no clip"):
        student.encoder.encode(replace(make_sample(), clip=None))


def test_targets(student: Student) -> None:
    sample = make_sample(number=1)
    target = student.encoder.encode_target(sample)
    tokenizer = student.processor.tokenizer
    assert target.dtype == torch.int64
    assert tokenizer.decode(target) == TRACES[1] + "<|im_end|>"
    assert target[-1] == student.eos_token_ids[0]
    with pytest.raises(ValueError, match=r"audio_video-1.*no trace"):
        student.encoder.encode_target(replace(sample, trace=None))


@pytest.mark.parametrize("token", ["video", "audio", "vision_start", "<|im_end|>", "<|endoftext|>"])
@pytest.mark.parametrize("field", ["question", "options", "trace"])
def test_special_tokens_in_a_text_are_refused(student: Student, token: str, field: str) -> None:
    """A special token would end the turn, or announce media that does not exist."""
    token = getattr(student.family.media_tokens, token, token)
    texts = {"question": f"What is {token}?", "options": ("this", f"that {token}"), "trace": f"<think>{token}</think>"}
    tricky = replace(make_sample(), **{field: texts[field]})
    encode = student.encoder.encode_target if field == "trace" else student.encoder.encode
    with pytest.raises(ValueError, match=rf"audio_video-0.*{re.escape(token)}"):
        encode(tricky)
