"""The demo's question set: the questions about each clip, and the reasoning that answers them.

Clips come in blocks of 16, one for each of the 4 × 4 (color, pitch) pairs. A *quad* is the four clips of two colors
crossed with two pitches. All four get the same question with the same options in the same order, and each has a
different right answer. With the options "A red bell, B blue hum, C red hum, D blue bell":

============  ===========  ============
clip's shape  clip's tone  right option
============  ===========  ============
red           bell         A
blue          hum          B
red           hum          C
blue          bell         D
============  ===========  ============

The accuracy ceilings are therefore exact, even for a model that has memorized the whole set: the text occurs
with all four letters (25 %), text and one stream with two letters (50 %), text and both streams with one (100 %).
Letters and classes are balanced by the same construction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from avrt.demo.clips import COLORS, PITCHES, SPLITS, ClipContent
from avrt.sample import LETTERS
from avrt.text.prompts import format_target

BLOCK_SIZE = len(COLORS) * len(PITCHES)
"""Clips per block; the number of clips of a split is a multiple of it."""

MAX_QUESTIONS_PER_CLIP = len(COLORS) - 1
"""Each question of a clip contrasts it with another color and another pitch, and there are this many others."""

WORDINGS = (
    "What is seen and heard?",
    "Which colour and sound?",
    "What does the clip have?",
)

SEEN, HEARD = "I see {word}", "I hear {word}"
"""How a teacher reports the color and the pitch."""

PERCEPTION = "I see {color} {color_letters}. I hear {pitch} {pitch_letters}."
"""The color and the two options that have it, the pitch and its two options."""

THOUGHT = f"{PERCEPTION} So {{letter}}."
"""The reasoning of a trace, which ends with the option in both lists. It has 12 words, as the length reward in
cli_configs/grpo_tiny.yaml prefers."""

OTHER_THOUGHT = (
    "I hear {pitch} {pitch_letters}. I see {color} {color_letters}. So I hear {pitch}, I see {color}. So {letter}."
)
"""The same in another merger's habits: another order, and half again as long."""

_CLIPS, _QUESTIONS = 1, 2


@dataclass(frozen=True)
class DemoQuestion:
    """One four-option question about one clip.

    Attributes:
        id: unique over both splits. Train ids are odd and val ids even, so neither split's size limits the other.
        clip: content of the clip.
        text: the question.
        options: four texts, each a color and a pitch.
        answer: index of the right option.
    """

    id: int
    clip: ClipContent
    text: str
    options: tuple[str, ...]
    answer: int

    def annotation(self) -> dict[str, Any]:
        """The question as one record of AVQA's annotation files."""
        return {
            "id": self.id,
            "video_name": self.clip.name,
            "video_id": _unique_id(self.clip.index, self.clip.split),
            "question_text": self.text,
            "multi_choice": list(self.options),
            "answer": self.answer,
            "question_relation": "Both",
            "question_type": "Which",
        }

    def trace(self) -> str:
        """The trace that the demo's merger writes when both teachers are right about the clip."""
        options = dict(zip(LETTERS, self.options, strict=False))
        return write_trace(self.clip.color, self.clip.pitch, options, LETTERS[self.answer])


def write_trace(color: str, pitch: str, options: Mapping[str, str], letter: str, wording: str = THOUGHT) -> str:
    """The reasoning from color and pitch to an option.

    Args:
        color, pitch: of the clip.
        options: the options' texts by letter.
        letter: the right one.
        wording: of the reasoning.
    """
    return format_target(fill(wording, color, pitch, options, letter), letter)


def fill(wording: str, color: str, pitch: str, options: Mapping[str, str], letter: str = "") -> str:
    """A wording, `PERCEPTION` or `THOUGHT`, about one clip and its question; arguments as for `write_trace`."""
    return wording.format(
        color=color,
        color_letters=_letters_with(color, options),
        pitch=pitch,
        pitch_letters=_letters_with(pitch, options),
        letter=letter,
    )


def plan_clips(split: str, n_clips: int, seed: int) -> list[ClipContent]:
    """Content of each clip of a split: every (color, pitch) pair once per block, in random order.

    Clip i is the same whatever `n_clips` is, so a larger set extends a smaller one.

    Raises:
        ValueError: `n_clips` is not a positive multiple of `BLOCK_SIZE`.
    """
    if n_clips <= 0 or n_clips % BLOCK_SIZE:
        raise ValueError(
            f"`{split}_clips` must be a positive multiple of {BLOCK_SIZE} (one clip of every color and pitch); "
            f"is {n_clips}, try {max(1, round(n_clips / BLOCK_SIZE)) * BLOCK_SIZE}"
        )
    pairs = [(color, pitch) for color in COLORS for pitch in PITCHES]
    clips = []
    for block in range(n_clips // BLOCK_SIZE):
        order = _block_generator(seed, split, block, _CLIPS).permutation(BLOCK_SIZE)
        for i, pair in enumerate(order, start=block * BLOCK_SIZE):
            color, pitch = pairs[pair]
            clips.append(ClipContent(color, pitch, seed=seed, split=split, index=i))
    return clips


def plan_questions(clips: Sequence[ClipContent], questions_per_clip: int) -> list[DemoQuestion]:
    """Write the questions of the clips that `plan_clips` returned, ordered by id.

    Raises:
        ValueError: `questions_per_clip` is not in 1 to `MAX_QUESTIONS_PER_CLIP`.
    """
    if not 1 <= questions_per_clip <= MAX_QUESTIONS_PER_CLIP:
        raise ValueError(f"`questions_per_clip` must be 1 to {MAX_QUESTIONS_PER_CLIP}; got {questions_per_clip}")
    questions: list[DemoQuestion] = []
    for start in range(0, len(clips), BLOCK_SIZE):
        block = {(clip.color, clip.pitch): clip for clip in clips[start : start + BLOCK_SIZE]}
        if len(block) < BLOCK_SIZE:
            raise ValueError(f"the clips from {start} on do not have every color and pitch once")
        rng = _block_generator(clips[start].seed, clips[start].split, start // BLOCK_SIZE, _QUESTIONS)
        color_rounds = _rounds(list(COLORS), rng)
        pitch_rounds = _rounds(list(PITCHES), rng)
        for nth in range(questions_per_clip):
            for colors in color_rounds[nth]:
                for pitches in pitch_rounds[nth]:
                    quad = [block[color, pitch] for color in colors for pitch in pitches]
                    questions.extend(_ask(quad, nth, questions_per_clip, rng))
    return sorted(questions, key=lambda question: question.id)


def demo_texts(questions: Sequence[DemoQuestion]) -> Iterator[str]:
    """Yield every text a student of the demo reads or writes, for building a tokenizer."""
    for question in questions:
        yield question.text
        yield from (f"{letter} {option}" for letter, option in zip(LETTERS, question.options, strict=False))
        yield question.trace()


def _letters_with(word: str, options: Mapping[str, str]) -> str:
    """Letters of the options that contain `word`, such as ``"A C"``."""
    return " ".join(letter for letter, option in options.items() if word in option.split())


def _ask(
    quad: Sequence[ClipContent], nth: int, questions_per_clip: int, rng: np.random.Generator
) -> Iterator[DemoQuestion]:
    """Ask the four clips of a quad the same question: only the right answer differs."""
    text = str(rng.choice(WORDINGS))
    order = [quad[i] for i in rng.permutation(len(quad))]
    options = tuple(f"{clip.color} {clip.pitch}" for clip in order)
    for answer, clip in enumerate(order):
        yield DemoQuestion(_unique_id(clip.index * questions_per_clip + nth, clip.split), clip, text, options, answer)


def _rounds(classes: Sequence[str], rng: np.random.Generator) -> list[list[tuple[str, str]]]:
    """Pair up an even number n of classes in n - 1 rounds, so that every two classes are paired exactly once.

    This is the circle method of round-robin tournaments, over the classes in random order.
    """
    fixed, *circle = (classes[i] for i in rng.permutation(len(classes)))
    rounds = []
    for turn in range(len(circle)):
        turned = circle[turn:] + circle[:turn]
        half = len(classes) // 2
        rounds.append([(fixed, turned[0]), *zip(turned[1:half], reversed(turned[half:]), strict=True)])
    return rounds


def _block_generator(seed: int, split: str, block: int, purpose: int) -> np.random.Generator:
    # `purpose` keeps these streams apart from each other and, never being 0, from the clips' own (seed, split, index).
    return np.random.default_rng([seed, SPLITS.index(split), block, purpose])


def _unique_id(number: int, split: str) -> int:
    """Map the split's 0, 1, 2, ... to 1, 3, 5, ... (train) or 2, 4, 6, ... (val)."""
    return 2 * number + 1 + SPLITS.index(split)
