"""Questions as text and as chat messages, and the target text of supervised fine-tuning."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from avrt.sample import LETTERS, Clip, Sample

AnswerFormat = Literal["tags", "letter"]
"""``tags``: reason in ``<think>``, answer in ``<answer>``. ``letter``: the bare letter (untrained base models)."""

SYSTEM_PROMPT = "You answer multiple-choice questions about a clip from what can be seen and heard in it."


@dataclass(frozen=True)
class PromptTemplate:
    """The wording around a question. Every part can be set in a config file.

    Attributes:
        system: system message; empty for none.
        question_line: the question, above the options; ``{question}`` is filled in. It may have several lines.
        option_line: one option; ``{letter}`` and ``{text}`` are filled in.
        tags_instruction: closing line for an answer in tags; ``{letters}`` becomes "A, B, C or D".
        letter_instruction: closing line for the bare letter; ``{letters}`` as above.

    Raises:
        ValueError: a part has an unknown placeholder, or the question or option line lacks one.
    """

    system: str = SYSTEM_PROMPT
    question_line: str = "{question}"
    option_line: str = "{letter}. {text}"
    tags_instruction: str = (
        "Work out the answer step by step from what you see and hear, inside <think> and </think>. "
        "Then write only the letter of the right option ({letters}) inside <answer> and </answer>."
    )
    letter_instruction: str = "Reply with the letter of the right option only ({letters})."

    def __post_init__(self) -> None:
        parts = {
            "question_line": {"question": "a question's text"},
            "option_line": {"letter": "B", "text": "option's text"},
            "tags_instruction": {"letters": "A or B"},
            "letter_instruction": {"letters": "A or B"},
        }
        for name, values in parts.items():
            try:
                filled = getattr(self, name).format(**values)
            except (KeyError, IndexError, ValueError, AttributeError) as error:
                known = " and ".join(f"{{{key}}}" for key in values)
                raise ValueError(f"prompt template: `{name}` may use {known} only; write other braces twice") from error
            if name in ("question_line", "option_line") and not all(value in filled for value in values.values()):
                needed = " and ".join(f"{{{key}}}" for key in values)
                raise ValueError(f"prompt template: `{name}` must contain {needed}")


DEFAULT = PromptTemplate()


def question_text(sample: Sample, *, answer_format: AnswerFormat = "tags", template: PromptTemplate = DEFAULT) -> str:
    """The question, one line per option, and how to answer; empty parts of the template add no line."""
    if answer_format not in get_args(AnswerFormat):
        raise ValueError(f"`answer_format` must be one of {', '.join(get_args(AnswerFormat))}, got {answer_format!r}")
    options = [
        template.option_line.format(letter=letter, text=text)
        for letter, text in zip(sample.letters, sample.options, strict=True)
    ]
    instruction = template.tags_instruction if answer_format == "tags" else template.letter_instruction
    letters = f"{', '.join(sample.letters[:-1])} or {sample.letters[-1]}"
    question = template.question_line.format(question=sample.question)
    return "\n".join(line for line in [question, *options, instruction.format(letters=letters)] if line)


def clip_modalities(clip: Clip) -> tuple[str, ...]:
    """The streams a clip has, in prompt order: ``video`` or ``image``, then ``audio``."""
    visual = () if clip.frames is None else ("image",) if clip.is_image else ("video",)
    return (*visual, *(() if clip.waveform is None else ("audio",)))


_PLACE = re.compile(r"<(video|image|audio)([1-9][0-9]?)>")


def arrange(text: str, clips: Sequence[Sequence[str]]) -> list[str | tuple[int, str]]:
    """A prompt's parts in their order: pieces of text, and the streams of its clips as (number of the clip, stream).

    Streams come first, in the order of the clips. Where the text has ``<image2>``, its second image is at this place,
    likewise ``<video1>`` and ``<audio1>``; the audio of a video follows its video. A place of a stream that there is
    not stays text.

    Args:
        text: the prompt's text.
        clips: the streams of each clip, see `clip_modalities`.
    """
    streams = [(clip, stream) for clip, names in enumerate(clips) for stream in names]
    numbered: dict[str, tuple[int, str]] = {}
    for place in streams:
        count = sum(earlier.startswith(f"<{place[1]}") for earlier in numbered)
        numbered[f"<{place[1]}{count + 1}>"] = place
    named = {numbered[match[0]] for match in _PLACE.finditer(text) if match[0] in numbered}

    def with_audio(place: tuple[int, str]) -> list[tuple[int, str]]:
        """A stream, and its clip's audio behind it unless that has a place of its own."""
        audio = (place[0], "audio")
        return [place, audio] if place[1] != "audio" and audio in streams and audio not in named else [place]

    parts: list[str | tuple[int, str]] = []
    for place in streams:
        if place not in named and place not in parts:
            visual_is_named = place[1] == "audio" and any(clip == place[0] and kind != "audio" for clip, kind in named)
            parts += [] if visual_is_named else with_audio(place)
    end = 0
    for match in _PLACE.finditer(text):
        found = numbered.get(match[0])
        if found is not None and found not in parts:
            parts += [text[end : match.start()], *with_audio(found)]
            end = match.end()
    return [part for part in [*parts, text[end:]] if part]


def build_messages(
    sample: Sample,
    *,
    modalities: Collection[str],
    others: Sequence[Sequence[str]] = (),
    system_prompt: str | None = None,
    answer_format: AnswerFormat = "tags",
    template: PromptTemplate = DEFAULT,
) -> list[dict[str, Any]]:
    """One question as chat messages, in the form of transformers' chat templates.

    Video (or image) and audio are two separate items, in that order and before the text, never audio inside video: the
    student is trained this way everywhere in the project. A stream that is not in `modalities` does not appear.

    Args:
        sample: the question.
        modalities: streams to ask about: ``video`` or ``image``, and ``audio``; see `clip_modalities`. May be empty.
        others: streams of further clips, likewise; `arrange` says where they are.
        system_prompt: instead of the template's; ``""`` omits the system message.
        answer_format: ``tags`` or ``letter``.
        template: the wording.

    Raises:
        ValueError: an unknown modality, or video and image at once.
    """
    unknown = set(modalities) - {"video", "image", "audio"}
    if unknown or {"video", "image"} <= set(modalities):
        raise ValueError(f"`modalities` must be from video or image, and audio; got {sorted(modalities)}")
    text = question_text(sample, answer_format=answer_format, template=template)
    clips = [tuple(kind for kind in ("video", "image", "audio") if kind in modalities), *others]
    content: list[dict[str, Any]] = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": part[1]} for part in arrange(text, clips)
    ]
    system = template.system if system_prompt is None else system_prompt
    messages: list[dict[str, Any]] = []
    if system:
        messages.append({"role": "system", "content": [{"type": "text", "text": system}]})
    messages.append({"role": "user", "content": content})
    return messages


def format_target(think: str, letter: str) -> str:
    """The target text of supervised fine-tuning: ``<think>...</think>``, a line break, ``<answer>X</answer>``.

    Raises:
        ValueError: `letter` is not one capital letter, or `think` contains one of the tags.
    """
    if len(letter) != 1 or letter not in LETTERS:
        raise ValueError(f"the answer must be one capital letter, got {letter!r}")
    for tag in ("<think>", "</think>", "<answer>", "</answer>"):
        if tag in think:
            raise ValueError(f"the thinking must not contain {tag}: the target would break its own format")
    return f"<think>{think.strip()}</think>\n<answer>{letter}</answer>"
