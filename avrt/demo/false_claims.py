"""False claims put into the demo's traces, to measure how well a judge finds them and their source."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from avrt.demo.clips import COLORS, PITCHES
from avrt.demo.questions import HEARD, SEEN
from avrt.sample import Sample

SOURCES = ("none", "vision", "audio", "both", "merger")
"""Who brings the false claim into a trace."""

_COLOR_CLAIMS = (
    "The shape is {word}.",
    "A {word} object moves through the frames.",
    "Something {word} can be seen in the last frame.",
)
_PITCH_CLAIMS = (
    "The tone is a {word}.",
    "A {word} sounds from start to end.",
    "Later, a {word} is heard as well.",
)
_TRUE_CLAIMS = ("The shape is not {other_color}.", "No {other_pitch} is heard.", "The {color} shape moves.", "")


def add_false_claims(sample: Sample, source: str, seed: int) -> Sample:
    """A sample with a false claim in its trace, and in the replies of the teachers that it comes from.

    The claim replaces the true one, or is an additional sentence. A trace of source ``none`` gets a true sentence or
    none: it may deny what another trace claims.

    Args:
        sample: of the demo, with the trace and the replies of both teachers.
        source: one of `SOURCES`.
        seed: with the sample's id, decides on the claim and its wording.
    """
    rng = random.Random(f"{seed}:{source}:{sample.id}")
    color = _first(SEEN.format(word=r"(\w+)") + r"\.", sample.teacher_traces["vision"])
    pitch = _first(HEARD.format(word=r"(\w+)") + r"\.", sample.teacher_traces["audio"])
    other_color, other_pitch = _other(COLORS, color, rng), _other(PITCHES, pitch, rng)
    trace, teachers = str(sample.trace), dict(sample.teacher_traces)
    if source == "none":
        words = {"color": color, "other_color": other_color, "other_pitch": other_pitch}
        return replace(sample, trace=_inserted(trace, rng.choice(_TRUE_CLAIMS).format(**words)))
    streams = {"vision": "V", "audio": "A", "both": "VA", "merger": rng.choice("VA")}[source]
    if "V" in streams:
        trace = _claimed(trace, f"I see {color}", f"I see {other_color}", other_color, _COLOR_CLAIMS, rng)
        if source != "merger":
            teachers["vision"] = teachers["vision"].replace(f"I see {color}", f"I see {other_color}")
    if "A" in streams:
        trace = _claimed(trace, f"I hear {pitch}", f"I hear {other_pitch}", other_pitch, _PITCH_CLAIMS, rng)
        if source != "merger":
            teachers["audio"] = teachers["audio"].replace(f"I hear {pitch}", f"I hear {other_pitch}")
    return replace(sample, trace=trace, teacher_traces=teachers)


def _claimed(trace: str, true: str, false: str, word: str, claims: tuple[str, ...], rng: random.Random) -> str:
    if rng.random() < 0.5:
        return trace.replace(true, false)
    return _inserted(trace, rng.choice(claims).format(word=word))


def _inserted(trace: str, sentence: str) -> str:
    """A trace with a sentence at the end of its thinking."""
    thinking, end, rest = trace.partition("</think>")
    return f"{thinking} {sentence}{end}{rest}" if sentence else trace


def _first(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise ValueError(f"not a reply of the demo's teachers: {text[:80]!r}")
    return match[1]


def _other(words: Mapping[str, Any], word: str, rng: random.Random) -> str:
    return rng.choice([name for name in words if name != word])
