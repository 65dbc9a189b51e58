"""The prompts of teachers and merger, and the form in which the merger gets the teachers' replies.

A prompt is a text with placeholders: ``{question}`` and ``{options}``, and for the merger ``{vision_trace}`` and
``{audio_trace}``. The names of the paper's printed prompts mean the same: ``{formatted_choices}``,
``{vision_reasoning}``, ``{audio_reasoning}``. Other braces stay as they are. A teacher's prompt without ``{question}``
gets question and options at its end.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from avrt.sample import Sample
from avrt.text.answers import strip_special_tokens
from avrt.traces.config import Stage

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

MERGE_PROMPT = """\
Two assistants have looked into one clip for the same multiple-choice question. One heard its sound and saw nothing; \
the other saw its frames and heard nothing. Either may be mistaken.

Question: {question}
{options}

From the sound:
{audio_trace}

From the frames:
{vision_trace}

Write one chain of reasoning that uses both, as if you had heard and seen the clip yourself:
- Put it between <think> and </think>. Say what is heard and what is seen, how the two support or correct each other, \
and why this leads to one option.
- Do not mention the assistants, and add nothing that neither of them reports.
- Keep it to about 100 to 150 words.
- After it write only the letter of the right option between <answer> and </answer>.
Write nothing before, between or after the two parts."""

DEFAULT_PROMPTS: Mapping[Stage, str] = {"vision": VISION_PROMPT, "audio": AUDIO_PROMPT, "merge": MERGE_PROMPT}

_ALIASES = {
    "formatted_choices": "options",
    "choices": "options",
    "vision_reasoning": "vision_trace",
    "audio_reasoning": "audio_trace",
}
_PLACEHOLDER = re.compile(
    r"\{(question|options|formatted_choices|choices|frames|vision_trace|vision_reasoning|audio_trace|audio_reasoning)\}"
)
_THINK_MARKER = re.compile(r"<\s*/?\s*think\s*>|◁\s*/?\s*think\s*▷", re.IGNORECASE)
_THINK_END = re.compile(r"<\s*/\s*think\s*>|◁\s*/\s*think\s*▷", re.IGNORECASE)


def load_prompt(stage: Stage, path: str | None) -> str:
    """The stage's prompt: a file's text, or the project's own.

    Raises:
        ValueError: a merger's prompt lacks a placeholder, so that it would never see the traces, or a teacher's prompt
            has one for a trace.
    """
    prompt = DEFAULT_PROMPTS[stage] if path is None else Path(path).read_text(encoding="utf-8").strip()
    used = {_ALIASES.get(name, name) for name in _PLACEHOLDER.findall(prompt)}
    if stage == "merge":
        missing = {"question", "vision_trace", "audio_trace"} - used
        if missing:
            names = ", ".join(f"{{{name}}}" for name in sorted(missing))
            raise ValueError(f"merge.prompt_file: {path}: must contain {names}")
    elif used & {"vision_trace", "audio_trace"}:
        raise ValueError(
            f"{stage}.prompt_file: {path}: remove the placeholders of traces: a teacher must not see another's"
        )
    if "question" not in used:
        prompt += "\n{question}\n{options}"
    elif "options" not in used:
        prompt = prompt.replace("{question}", "{question}\n{options}", 1)
    return prompt


def fill_prompt(prompt: str, sample: Sample, *, suffix: str = "", **values: str) -> str:
    """The text of one call.

    Args:
        prompt: as `load_prompt` gives it.
        suffix: sentence that ends it.
        values: texts for ``frames``, ``vision_trace`` and ``audio_trace``.
    """
    options = "\n".join(f"({letter}) {text}" for letter, text in zip(sample.letters, sample.options, strict=True))
    known = {"question": sample.question, "options": options, **values}

    # In one pass, so that a placeholder inside a question or a trace stays text.
    def value(match: re.Match[str]) -> str:
        name = _ALIASES.get(match[1], match[1])
        return known.get(name, match[0])

    text = _PLACEHOLDER.sub(value, prompt)
    return f"{text}\n{suffix}" if suffix else text


def trace_for_merger(reply: str, max_chars: int) -> str:
    """A teacher's reply as the merger gets it: without special tokens and thinking markers.

    A reply longer than `max_chars` loses its thinking; if it is still too long, its beginning.
    """
    text = strip_special_tokens(reply)
    whole = _THINK_MARKER.sub("", text).strip()
    if len(whole) <= max_chars:
        return whole
    ends = list(_THINK_END.finditer(text))
    final = _THINK_MARKER.sub("", text[ends[-1].end() :]).strip() if ends else whole
    return (final or whole)[-max_chars:]
