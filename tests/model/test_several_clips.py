"""Prompts about several clips: tokens, features and positions are those of transformers' own processor and model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from avrt.model.student import Student
from avrt.sample import SAMPLING_RATE, Clip, Sample
from tests.tiny_student import load_plain, load_student, make_sample, random_clip

IMAGES = [random_clip("image", seed=1), random_clip("image", seed=2, height=120, width=56)]
AUDIO = [random_clip("audio", seed=3, audio_seconds=0.7), random_clip("audio", seed=4, audio_seconds=1.9)]
VIDEOS = [random_clip("audio_video", seed=5, frames=4), random_clip("video", seed=6, frames=6, seconds=3.0)]


@pytest.fixture(scope="module")
def student(layout_folder: Path) -> Student:
    return load_student(layout_folder)


def sample_of(question: str, clips: list[Clip]) -> Sample:
    return replace(make_sample(), question=question, clip=clips[0], other_clips=tuple(clips[1:]))


def plain_inputs(student: Student, content: list[Any]) -> dict[str, Any]:
    """Arguments of transformers' forward, from the processor alone: texts, and pairs of stream and clip."""
    processor = student.processor
    parts = [{"type": "text", "text": part} if isinstance(part, str) else {"type": part[0]} for part in content]
    clips = {kind: [part[1] for part in content if part[0] == kind] for kind in ("image", "video", "audio")}
    size = {"shortest_edge": student.config.min_pixels, "longest_edge": student.config.max_pixels}
    arguments: dict[str, Any] = {}
    if clips["image"]:
        arguments |= {"images": [clip.frames[0] for clip in clips["image"]], "images_kwargs": {"size": size}}
    if clips["video"]:
        arguments["videos"] = [clip.frames for clip in clips["video"]]
        arguments["videos_kwargs"] = {"do_sample_frames": False, "fps": 1.0, "size": size}
    if clips["audio"]:
        audio = [clip.waveform.numpy() for clip in clips["audio"]]
        arguments |= {"audio": audio, "audio_kwargs": {"sampling_rate": SAMPLING_RATE}}
    text = processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
    inputs = dict(processor(text=text, return_tensors="pt", **arguments))
    if clips["video"]:
        inputs["video_second_per_grid"] = torch.tensor([2 / clip.fps for clip in clips["video"]])
    return inputs


OPTIONS = "A. red bell\nB. blue hum"


I1, I2 = (("image", clip) for clip in IMAGES)
A1, A2 = (("audio", clip) for clip in AUDIO)
V1, V2 = (("video", clip) for clip in VIDEOS)
V1_AUDIO = ("audio", VIDEOS[0])


@pytest.mark.parametrize(
    ("question", "clips", "content"),
    [
        ("Same?", IMAGES, [I1, I2, f"Same?\n{OPTIONS}"]),
        ("Which?", AUDIO, [A1, A2, f"Which?\n{OPTIONS}"]),
        ("Both?", VIDEOS, [V1, V1_AUDIO, V2, f"Both?\n{OPTIONS}"]),
        (
            "Is <image2>, or <image1>, <audio2> or <audio1>?",
            [*IMAGES, *AUDIO],
            ["Is ", I2, ", or ", I1, ", ", A2, " or ", A1, f"?\n{OPTIONS}"],
        ),
        (
            "<video2> then <video1> then <image1>",
            [*VIDEOS, IMAGES[0], AUDIO[0]],
            [A1, V2, " then ", V1, V1_AUDIO, " then ", I1, f"\n{OPTIONS}"],
        ),
        (
            "<image1> then <video1> then <image2>",
            [*IMAGES, VIDEOS[1]],
            [I1, " then ", V2, " then ", I2, f"\n{OPTIONS}"],
        ),
    ],
)
def test_a_prompt_is_transformers_own(student: Student, question: str, clips: list[Clip], content: list[Any]) -> None:
    prompt = student.encoder.encode(sample_of(question, clips))
    (embedded,) = student.embed([prompt])
    plain = load_plain(Path(student.config.path), torch.float32)
    seen: dict[str, Any] = {}
    plain.model.language_model.register_forward_pre_hook(
        lambda _, __, arguments: seen.update(arguments), with_kwargs=True
    )
    inputs = plain_inputs(student, content)
    plain(**inputs)
    assert torch.equal(inputs["input_ids"][0], embedded.input_ids)
    assert torch.equal(seen["position_ids"][-3:, 0].to(embedded.position_ids.dtype), embedded.position_ids)
    media = seen["inputs_embeds"][0, embedded.media_positions]
    torch.testing.assert_close(embedded.media_features, media, rtol=0, atol=1e-5)
    layers = seen.get("deepstack_visual_embeds")
    if layers is None:
        assert embedded.visual_layers is None
    else:  # in the order of the prompt, whatever the order of images and videos
        assert embedded.visual_layers is not None
        torch.testing.assert_close(embedded.visual_layers, torch.stack(list(layers)), rtol=0, atol=1e-5)
        assert embedded.visual_layers.untyped_storage().nbytes() == embedded.visual_layers.nbytes, "and nothing else"
        assert torch.equal(seen["visual_pos_masks"][0].nonzero().squeeze(1), embedded.visual_positions)


def test_prompts_of_one_and_of_several_clips_share_a_batch(student: Student) -> None:
    """Each prompt gets its own features, whatever stands beside it."""
    samples = [make_sample("audio_video", 1), sample_of("Which?", [*IMAGES, *AUDIO]), make_sample("audio", 2)]
    prompts = [student.encoder.encode(sample) for sample in samples]
    before = student.encoder_runs
    together = student.embed(prompts)
    assert student.encoder_runs == before + 3
    for prompt, embedded in zip(prompts, together, strict=True):
        (alone,) = student.embed([prompt])
        torch.testing.assert_close(embedded.media_features, alone.media_features, rtol=0, atol=1e-5)
        assert torch.equal(embedded.media_positions, alone.media_positions)
