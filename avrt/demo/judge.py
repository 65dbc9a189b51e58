"""The demo's judge: grades a student's reasoning by what it measures in the clip and by the options' texts.

It gets what any judge gets: a prompt of `avrt.text.rubrics`, with frames, audio, both or none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from avrt.demo.clips import COLORS, PITCHES

_BLOCK = re.compile(r"^<(thinking|answer)>\n((?:> .*\n)+)</\1>$", re.MULTILINE)
_SCALE = re.compile(r"N is a number from (\S+) \(worst\) to (\S+) \(best\)")
_CONCLUSION = re.compile(r"\bSo ([A-Z])\b")


def judge(text: str, options: Mapping[str, str], color: str | None, pitch: str | None) -> str:
    """A judge's reply: each check with its result, then the share of checks that hold as a score on the scale.

    Args:
        text: the prompt.
        options: the question's options by letter.
        color, pitch: as measured in the media of the call; None where the stream was not sent or has none.

    Raises:
        ValueError: the prompt has no reasoning or no scale.
    """
    blocks = {name: body.replace("> ", "", 1).replace("\n> ", "\n").strip() for name, body in _BLOCK.findall(text)}
    scale = _SCALE.findall(text)
    if "thinking" not in blocks or not scale:
        raise ValueError("the prompt has no reasoning in <thinking> or no scale")
    low, high = (float(bound) for bound in scale[-1])
    thinking = blocks["thinking"]
    colors, pitches = _named(COLORS, thinking), _named(PITCHES, thinking)
    checks: list[tuple[str, bool]] = []
    if color is not None:
        checks.append((f"the color is {color} and the reasoning says {_shown(colors)}", colors == {color}))
    if pitch is not None:
        checks.append((f"the sound is {pitch} and the reasoning says {_shown(pitches)}", pitches == {pitch}))
    if "answer" in blocks or not checks:
        answer, conclusions = blocks.get("answer", ""), _CONCLUSION.findall(thinking)
        fitting = {letter for letter, option in options.items() if colors | pitches <= set(option.split())}
        named = bool(colors and pitches)
        checks.append((f"the reasoning concludes {_shown(conclusions)}", conclusions[-1:] == [answer]))
        checks.append((f"what it names fits {_shown(fitting if named else ())}", named and fitting == {answer}))
    score = low + (high - low) * sum(holds for _, holds in checks) / len(checks)
    lines = [f"{'Yes' if holds else 'No'}: {what}." for what, holds in checks]
    lines.append(f'{{"score": {score:g}}}' if '{"score": N}' in text else f"Score: {score:g}")
    return "\n".join(lines)


def _named(words: Iterable[str], text: str) -> set[str]:
    """The words that occur in a text."""
    return set(words) & set(re.findall(r"\w+", text))


def _shown(words: Iterable[str]) -> str:
    return ", ".join(sorted(words)) or "nothing"
