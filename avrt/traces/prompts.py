"""The prompts of teachers, and the form in which the merger gets the teachers' replies.

A prompt is a text with placeholders: ``{question}``, ``{options}`` (the paper's ``{formatted_choices}``), ``{frames}``
for the number of frames, and ``{transcript}``. Other braces stay as they are. A prompt without ``{question}`` gets
question and options at its end. See `avrt.traces.merge_prompt` for the merger's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from avrt.sample import Sample
from avrt.text.answers import strip_special_tokens
from avrt.traces.config import TeacherConfig
from avrt.traces.student_prompt import prompt_pattern

VISION_PROMPT = """\
These are {frames} frames of one video clip, in order and evenly spaced over its length. You cannot hear its sound.
Answer a multiple-choice question about the clip in three parts.

Visual Description: what the frames show: place, people, animals, objects, actions, and how things change from the \
first frame to the last.
Reasoning: what follows from that for the question. Go through every option and say what in the frames speaks for it \
or against it. If one look settles the question, keep this part to a sentence or two.
Answer: the letter of the best option in parentheses, then its text.

Example of the form, for another clip:
Question: What is the person doing?
(A) Mowing a lawn
(B) Shovelling snow
(C) Sweeping leaves
(D) Digging a ditch
Visual Description: The first frames show a driveway under a white layer and a person in a heavy coat. In the middle \
frames the person bends and lifts a wide blade; in the last frames a strip of dark ground runs behind them.
Reasoning: The ground is white and the air shows flakes, so neither grass (A) nor leaves (C) are handled. The blade \
throws a loose load aside and the ground under it stays whole, so nothing is dug (D). Clearing a strip of snow fits \
every frame (B).
Answer: (B) Shovelling snow

Question: {question}
{options}"""

AUDIO_PROMPT = """\
You hear the sound of one clip. You cannot see its picture.
Answer a multiple-choice question about the clip in three parts.

Audio Description: what can be heard: voices and words, animals, machines, music and instruments, loudness, rhythm, \
echo, and how the sound changes over time.
Reasoning: what follows from that for the question. Go through every option and say what in the sound speaks for it \
or against it. If the sound settles the question at once, keep this part to a sentence or two.
Answer: the letter of the best option in parentheses, then its text.

Example of the form, for another clip:
Question: What is making the sound?
(A) A washing machine
(B) A sewing machine
(C) A printer
(D) A drill
Audio Description: A quick, even clatter of light metal strokes comes in bursts of a few seconds. Each burst speeds up \
at its start and stops dead; cloth rustles in between.
Reasoning: A washing machine (A) hums and sloshes for minutes without stopping. A printer (C) whirs back and forth at \
a fixed pace. A drill (D) whines at a high pitch. Short bursts of needle strokes with rustling cloth between them \
belong to sewing (B).
Answer: (B) A sewing machine

Question: {question}
{options}"""

BOTH_PROMPT = """\
These are {frames} frames of one video clip, in order and evenly spaced over its length, and the clip's sound.
Answer a multiple-choice question about the clip in three parts.

Description: what the frames show and what can be heard, and how both change over the clip.
Reasoning: what follows from that for the question. Go through every option and say what in the frames and in the \
sound speaks for it or against it.
Answer: the letter of the best option in parentheses, then its text.

Question: {question}
{options}"""

TEXT_PROMPT = """\
You can neither see nor hear the clip that a multiple-choice question is about. Answer from general knowledge, in two \
parts.

Reasoning: what is known about the things in the question. Go through every option and say how likely it is.
Answer: the letter of the best option in parentheses, then its text.

Question: {question}
{options}"""

TRANSCRIPT_PROMPT = """\
You get a transcript of the speech in one clip. You can neither see nor hear the clip. A program wrote the transcript: \
it may mishear words, and write some where nobody speaks.
Answer a multiple-choice question about the clip in three parts.

Speech: who speaks about what, as far as the transcript shows.
Reasoning: what follows from that for the question. Go through every option and say what in the speech speaks for it \
or against it. If the speech does not settle the question, say so.
Answer: the letter of the best option in parentheses, then its text.

Transcript: {transcript}

Question: {question}
{options}"""

SPEECH_PROMPT = """\
You hear the sound of one clip. You cannot see its picture. Listen to the speech.
Answer a multiple-choice question about the clip in three parts.

Speech: how many people speak, in which language and tone, and the words that matter for the question. If nobody \
speaks, say so.
Reasoning: what follows from that for the question. Go through every option and say what in the speech speaks for it \
or against it. If the speech does not settle the question, say so.
Answer: the letter of the best option in parentheses, then its text.

Question: {question}
{options}"""

NO_WORDS = "(no words recognized)"
"""In place of an empty transcript."""

PROMPTS: Mapping[str, str] = {
    "frames": VISION_PROMPT,
    "audio": AUDIO_PROMPT,
    "both": BOTH_PROMPT,
    "transcript": TRANSCRIPT_PROMPT,
    "none": TEXT_PROMPT,
    "speech": SPEECH_PROMPT,
}
"""The project's prompts for teachers, by name. The first ones have the names of a teacher's `inputs`."""

_ALIASES = {"formatted_choices": "options", "choices": "options"}
PLACEHOLDER = re.compile(r"\{([a-z][a-z0-9_]*)\}")
"""A placeholder; a name that has no value stays as it is."""
_TRACE = re.compile(r"[a-z][a-z0-9_]*_(?:trace|reasoning)")
_THINK_MARKER = re.compile(r"<\s*/?\s*think\s*>|◁\s*/?\s*think\s*▷", re.IGNORECASE)
_THINK_END = re.compile(r"<\s*/\s*think\s*>|◁\s*/\s*think\s*▷", re.IGNORECASE)


def teacher_prompt(key: str, teacher: TeacherConfig) -> str:
    """The prompt of a teacher's settings; empty for one that transcribes.

    Args:
        key: key of the settings, for error messages.

    Raises:
        ValueError: see `load_prompt`; or the teacher is sent a transcript, for which its prompt has no place.
    """
    if teacher.is_transcriber:
        return ""
    if (template := teacher.student_template) is not None:
        return prompt_pattern(template)
    prompt = load_prompt(key, teacher.prompt or teacher.inputs, teacher.prompt_file)
    if (teacher.inputs == "transcript") != ("transcript" in placeholders(prompt)):
        fix = "must contain {transcript}" if teacher.inputs == "transcript" else "remove {transcript}: it is sent none"
        raise ValueError(f"{key}.prompt{'_file' if teacher.prompt_file else ''}: {fix}")
    return prompt


def load_prompt(key: str, name: str, path: str | None) -> str:
    """A teacher's prompt: a file's text, or one of the project's own.

    Args:
        key: key of the teacher's settings, for error messages.
        name: one of `PROMPTS`, for where no file is given.
        path: the file.

    Raises:
        ValueError: there is no prompt of that name, or the file has a placeholder for another teacher's trace.
    """
    if path is None and name not in PROMPTS:
        raise ValueError(f"{key}.prompt: {name!r} is none of {', '.join(PROMPTS)}")
    prompt = PROMPTS[name] if path is None else read_prompt(path)
    if any(map(_TRACE.fullmatch, placeholders(prompt))):
        raise ValueError(
            f"{key}.prompt_file: {path}: remove the placeholders of traces: a teacher must not see another's"
        )
    return with_question(prompt)


def read_prompt(path: str) -> str:
    """The text of a prompt's file."""
    return Path(path).read_text(encoding="utf-8").strip()


def placeholders(prompt: str) -> set[str]:
    """Names of a prompt's placeholders, each by its first name."""
    return {_ALIASES.get(name, name) for name in PLACEHOLDER.findall(prompt)}


def with_question(prompt: str) -> str:
    """A prompt with question and options; they come last if it has no place for them."""
    used = placeholders(prompt)
    if "question" not in used:
        return prompt + "\n{question}\n{options}"
    return prompt if "options" in used else prompt.replace("{question}", "{question}\n{options}", 1)


def fill_prompt(prompt: str, sample: Sample, *, suffix: str = "", **values: str) -> str:
    """The text of one call.

    Args:
        prompt: as `load_prompt` gives it.
        suffix: sentence that ends it.
        values: texts by placeholder, such as ``frames`` or ``audio_trace``.
    """
    options = "\n".join(f"({letter}) {text}" for letter, text in zip(sample.letters, sample.options, strict=True))
    known = {"question": sample.question, "options": options, **values}

    # In one pass, so that a placeholder inside a question or a trace stays text.
    def value(match: re.Match[str]) -> str:
        name = _ALIASES.get(match[1], match[1])
        return known.get(name, match[0])

    text = PLACEHOLDER.sub(value, prompt)
    return f"{text}\n{suffix}" if suffix else text


def trace_for_merger(reply: str, max_chars: int) -> str:
    """A teacher's reply as the merger gets it: without special tokens and thinking markers.

    A reply longer than `max_chars` loses its thinking; if it is still too long, its beginning.
    """
    whole = _THINK_MARKER.sub("", strip_special_tokens(reply)).strip()
    if len(whole) <= max_chars:
        return whole
    return (without_thinking(reply) or whole)[-max_chars:]


def without_thinking(reply: str) -> str:
    """What a reply says after its thinking; the whole reply if no thinking is marked."""
    text = strip_special_tokens(reply)
    ends = list(_THINK_END.finditer(text))
    return _THINK_MARKER.sub("", text[ends[-1].end() :] if ends else text).strip()
