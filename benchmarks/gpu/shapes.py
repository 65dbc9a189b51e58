"""The sizes of the measurements, in full and in miniature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SIZES = ("3b", "7b")


@dataclass(frozen=True)
class Shape:
    """Sizes of all parts.

    Attributes:
        published: students of the published shapes; else tiny ones.
        frame_size: height and width of the 8 frames of a clip in pixels; one token covers 28 x 28 pixels of two.
        audio_seconds: audio of a clip.
        prompt_tokens: audio-visual prompts are filled up with text to so many tokens.
        prompts: prompts of one optimizer step.
        groups, responses: responses per prompt and their tokens, of the phases of a step.
        exact: tokens of a text prompt, responses per prompt and tokens of a response, for the exactness checks.
        decoding: tokens of a text prompt, prompts, responses per prompt and tokens of a response, for decoding.
        trl_prompts: tokens of the text prompts of the step against TRL; 8 responses of `trl_response` tokens each.
        step_prompts, step_response: audio-visual prompts and tokens of a response of a whole step under Lightning.
        rounds: measured rounds of what alternates.
        copy_bytes: size of the arrays of the bandwidth measurements.
        matrix: side of the square matrices of the arithmetic measurement.
    """

    published: bool
    frame_size: tuple[int, int]
    audio_seconds: int
    prompt_tokens: int
    prompts: int
    groups: tuple[int, ...]
    responses: tuple[int, ...]
    exact: tuple[int, int, int]
    decoding: tuple[int, int, int, int]
    trl_prompts: tuple[int, int]
    trl_response: int
    step_prompts: int
    step_response: int
    rounds: int
    copy_bytes: int
    matrix: int


FULL = Shape(
    published=True,
    frame_size=(560, 1008),  # as 16:9 clips under the presets: 4 x 720 tokens, and 250 of audio
    audio_seconds=10,
    prompt_tokens=3482,  # the longest under the presets
    prompts=8,
    groups=(4, 8),
    responses=(256, 512),
    exact=(512, 4, 64),
    decoding=(1536, 8, 4, 128),
    trl_prompts=(1536, 3072),
    trl_response=128,
    step_prompts=8,
    step_response=256,
    rounds=2,
    copy_bytes=2**31,
    matrix=8192,
)

MINIATURE = Shape(
    published=False,
    frame_size=(112, 112),
    audio_seconds=4,
    prompt_tokens=512,
    prompts=2,
    groups=(2,),
    responses=(3, 4),
    exact=(24, 3, 6),
    decoding=(24, 2, 2, 5),
    trl_prompts=(12, 20),
    trl_response=4,
    step_prompts=2,
    step_response=3,
    rounds=1,
    copy_bytes=2**20,
    matrix=64,
)

Row = dict[str, Any]
"""A flat row of figures; see `benchmarks.gpu.child` for the keys that have a meaning."""


class Skipped(Exception):
    """The part cannot run here; the message says why."""
