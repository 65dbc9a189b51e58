"""Core records shared by all packages: `Clip`, `Sample`, `Completion` and `LeftOut`.

Shape letters: T frames, S audio samples, C response tokens.
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

LETTERS = string.ascii_uppercase
"""Option letters: option i of a question is called ``LETTERS[i]``."""

KEY_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,80}")
"""A sample's id also names its members in a shard, where a dot or a slash would end it."""

SAMPLING_RATE = 16_000
"""Audio samples per second, everywhere in the project (mono, float32)."""


@dataclass(frozen=True)
class Clip:
    """The decoded media of one sample: a few frames and mono audio.

    A stream that the sample does not have is ``None`` (an audio-only benchmark has no frames).

    Attributes:
        frames: uint8 ``[T, 3, height, width]``, or None.
        timestamps: time of each frame in seconds, length T.
        fps: real rate of `frames` in frames per second (8 frames over 10 s: 0.8).
            It places the frames in time (TMRoPE); None when there are no frames.
        waveform: float32 ``[S]`` at `SAMPLING_RATE`, or None.
        duration: length of the source file in seconds.
        width, height: display size of the source video in pixels, after rotation, before resizing.
        is_image: the frames are one image, to be encoded as an image and not as a video.
    """

    frames: torch.Tensor | None
    timestamps: tuple[float, ...] = ()
    fps: float | None = None
    waveform: torch.Tensor | None = None
    duration: float = 0.0
    width: int = 0
    height: int = 0
    is_image: bool = False

    def __post_init__(self) -> None:
        if self.frames is None and self.waveform is None:
            raise ValueError("a clip needs frames, a waveform, or both")
        if self.frames is not None and not self.is_image and not self.fps:
            raise ValueError("a clip with video frames needs their real rate in `fps`")


@dataclass(frozen=True)
class Sample:
    """One multiple-choice question about one clip.

    Attributes:
        id: unique in its data set; the key of the sample in a shard.
        question: the question's text.
        options: the answer options' texts, two or more, without their letters.
        answer: index of the right option.
        split: ``train``, ``val`` or ``test``.
        question_type: the data set's own category (AVQA: "Come From", "Which", ...).
        modality: the stream that the question needs, in the data set's words (AVQA: "Both", "View", "Sound").
        source: name of the clip the sample was made from; samples with equal `source` share a clip.
        audio_source: name of the audio file if it is another one; equal to `source` where there is only audio.
        clip: decoded media, or None while only the text is needed.
        other_clips: further clips of a question about several files, in their order; benchmarks only.
        trace: target text for supervised fine-tuning, ``<think>...</think><answer>X</answer>``.
        teacher_traces: raw text of each teacher, by stage name (``vision``, ``audio``, ...).
        extra: other fields of the data set (JSON values), kept but not interpreted.
    """

    id: str
    question: str
    options: tuple[str, ...]
    answer: int
    split: str = "train"
    question_type: str = ""
    modality: str = ""
    source: str = ""
    audio_source: str = ""
    clip: Clip | None = None
    other_clips: tuple[Clip, ...] = ()
    trace: str | None = None
    teacher_traces: dict[str, str] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 2 <= len(self.options) <= len(LETTERS):
            raise ValueError(f"sample {self.id!r}: needs 2 to {len(LETTERS)} options, got {len(self.options)}")
        if isinstance(self.answer, bool) or not isinstance(self.answer, int):
            raise ValueError(f"sample {self.id!r}: `answer` must be an option's index, got {self.answer!r}")
        if not 0 <= self.answer < len(self.options):
            raise ValueError(
                f"sample {self.id!r}: answer index {self.answer} is out of range for its {len(self.options)} options"
            )

    @property
    def clips(self) -> tuple[Clip, ...]:
        """All clips, in the order in which a model gets them."""
        return () if self.clip is None else (self.clip, *self.other_clips)

    @property
    def letters(self) -> str:
        """The letters of this question's options, e.g. ``"ABCD"``."""
        return LETTERS[: len(self.options)]

    @property
    def gold(self) -> str:
        """The letter of the right option."""
        return LETTERS[self.answer]

    def is_right(self, letter: str | None) -> bool:
        """Whether a reply's letter is the right one; None, for a reply without an answer, is wrong."""
        return letter == self.gold


def check_key(key: str) -> str:
    """Return `key` if it can be a sample's id, or raise ValueError."""
    if not isinstance(key, str) or not KEY_PATTERN.fullmatch(key):
        raise ValueError(f"id {key!r} cannot name a sample: use 1 to 80 letters, digits, '-' and '_'")
    return key


@dataclass(frozen=True)
class Completion:
    """One sampled response to one sample's question: the input of rewards and of evaluation records.

    Attributes:
        sample: the question.
        text: the decoded response, special tokens stripped.
        token_ids: response tokens, the end-of-turn token included when it was produced; length C.
        logprobs: log-probability of each token under the distribution it was drawn from; length C, or None.
        finish_reason: ``stop`` (the model ended its turn) or ``length`` (it reached the token limit).
        staleness: in training, optimizer steps between the weights that sampled it and those that learn from it first.
    """

    sample: Sample
    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] | None = None
    finish_reason: str = "stop"
    staleness: int = 0


@dataclass(frozen=True)
class LeftOut:
    """A question of the annotations that is not in the shards.

    Attributes:
        id: the question's id, or its row's number where it has none.
        source: its clip, or empty where the row names none.
        reason: a code: of `avrt.media.errors.MediaReason`, `avrt.data.annotations.RowReason`, or the reasoning's filter
            (`avrt.traces.published`).
        detail: the reason in words.
    """

    id: str
    source: str
    reason: str
    detail: str
