"""The demo's question set: which clip asks what, and the reasoning that answers it.

Clips come in blocks of 64, one for each of the 8 × 8 (picture, sound) pairs. A *quad* is the four clips of two
pictures crossed with two sounds. All four get the same question with the same options in the same order, and each
has another right answer. With the options "A red bell, B blue hum, C red hum, D blue bell":

============  ===========  ============
clip's shape  clip's tone  right option
============  ===========  ============
red           bell         A
blue          hum          B
red           hum          C
blue          bell         D
============  ===========  ============

The ceilings are therefore exact and hold for any player, even one that knows the whole set by heart: the text occurs
with all four letters (25 %), text and one stream with two letters (50 %), text and both streams with one (100 %).
Letters and classes are balanced by the same construction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from avrt.demo.clips import PICTURES, SOUNDS, SPLITS, ClipContent
from avrt.sample import LETTERS
from avrt.text.prompts import format_target

BLOCK_SIZE = len(PICTURES) * len(SOUNDS)
"""Clips per block; the number of clips of a split is a multiple of it."""

MAX_QUESTIONS_PER_CLIP = len(PICTURES) - 1
"""A clip's questions all oppose it to different pictures and sounds, and there are this many others."""

WORDINGS = (
    "What is seen and heard?",
    "Which colour and sound?",
    "What does the clip have?",
)

THOUGHTS = (
    "I see {picture} {picture_letters}. I hear {sound} {sound_letters}. So {letter}.",
    "I see {picture} {picture_letters}. I hear {sound} {sound_letters}. So the option is {letter}.",
)
"""What is seen and the two options that have it, the same for what is heard, and the option on both lists. Each step is
a plain lookup, which a tiny student learns in some hundred steps. One wording is as short as the length reward wants
it in cli_configs/grpo_tiny.yaml (12 words), the other too long (15)."""

_CLIPS, _QUESTIONS = 1, 2


@dataclass(frozen=True)
class DemoQuestion:
    """One four-option question about one clip.

    Attributes:
        id: unique over both splits. Train ids are odd and val ids even, so neither split's size limits the other.
        clip: what the clip shows and sounds like.
        text: the question.
        options: four texts, each a picture and a sound.
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
        """The trace that the demo's merger writes when both teachers have told it right."""
        options = dict(zip(LETTERS, self.options, strict=False))
        return write_trace(self.clip.picture, self.clip.sound, options, LETTERS[self.answer], variant=self.id // 2)


def write_trace(picture: str, sound: str, options: Mapping[str, str], letter: str, *, variant: int = 0) -> str:
    """The reasoning that leads from what is seen and heard to an option.

    Args:
        picture, sound: what the clip shows and sounds like.
        options: the options' texts by letter.
        letter: of the right one.
        variant: any number; chooses one of the `THOUGHTS`.
    """
    thought = THOUGHTS[variant % len(THOUGHTS)].format(
        picture=picture,
        picture_letters=_letters_with(picture, options),
        sound=sound,
        sound_letters=_letters_with(sound, options),
        letter=letter,
    )
    return format_target(thought, letter)


def plan_clips(split: str, n_clips: int, seed: int) -> list[ClipContent]:
    """Decide what each clip of a split shows and sounds like: every pair once per block, in random order.

    Clip i is the same whatever `n_clips` is, so a larger set extends a smaller one.

    Raises:
        ValueError: `n_clips` is no positive multiple of `BLOCK_SIZE`.
    """
    if n_clips <= 0 or n_clips % BLOCK_SIZE:
        raise ValueError(
            f"`{split}_clips` must be a positive multiple of {BLOCK_SIZE} (one clip of every picture and sound); "
            f"is {n_clips}, try {max(1, round(n_clips / BLOCK_SIZE)) * BLOCK_SIZE}"
        )
    pairs = [(picture, sound) for picture in PICTURES for sound in SOUNDS]
    clips = []
    for block in range(n_clips // BLOCK_SIZE):
        order = _block_generator(seed, split, block, _CLIPS).permutation(BLOCK_SIZE)
        for i, pair in enumerate(order, start=block * BLOCK_SIZE):
            picture, sound = pairs[pair]
            clips.append(ClipContent(picture, sound, seed=seed, split=split, index=i))
    return clips


def plan_questions(clips: Sequence[ClipContent], questions_per_clip: int) -> list[DemoQuestion]:
    """Write the questions of the clips that `plan_clips` returned, ordered by id.

    Raises:
        ValueError: `questions_per_clip` is not in 1 to `MAX_QUESTIONS_PER_CLIP`.
    """
    if not 1 <= questions_per_clip <= MAX_QUESTIONS_PER_CLIP:
        raise ValueError(f"`questions_per_clip` must be 1 to {MAX_QUESTIONS_PER_CLIP}; is {questions_per_clip}")
    questions: list[DemoQuestion] = []
    for start in range(0, len(clips), BLOCK_SIZE):
        block = {(clip.picture, clip.sound): clip for clip in clips[start : start + BLOCK_SIZE]}
        if len(block) < BLOCK_SIZE:
            raise ValueError(f"clips {start} and up are no block with every picture and sound once")
        rng = _block_generator(clips[start].seed, clips[start].split, start // BLOCK_SIZE, _QUESTIONS)
        picture_rounds = _rounds(list(PICTURES), rng)
        sound_rounds = _rounds(list(SOUNDS), rng)
        for nth in range(questions_per_clip):
            for pictures in picture_rounds[nth]:
                for sounds in sound_rounds[nth]:
                    quad = [block[picture, sound] for picture in pictures for sound in sounds]
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
    options = tuple(f"{clip.picture} {clip.sound}" for clip in order)
    for answer, clip in enumerate(order):
        yield DemoQuestion(_unique_id(clip.index * questions_per_clip + nth, clip.split), clip, text, options, answer)


def _rounds(classes: Sequence[str], rng: np.random.Generator) -> list[list[tuple[str, str]]]:
    """Pair up an even number n of classes in n - 1 rounds, so that every two classes meet exactly once.

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
