"""The demo's judge of traces: compares what a trace claims with what it measures in the clip.

It gets what any judge of `avrt.judging` gets: a prompt with one or two traces, and with the teachers' replies when the
prompt asks for sources. It reads colors and pitches that a sentence claims; of other claims it knows nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from avrt.demo.claims import statements
from avrt.demo.clips import COLORS, PITCHES
from avrt.judging.schema import BOTH, MERGER, NONE, SEVERAL
from avrt.traces.verdicts import ACCURATE, HALLUCINATING, MISSING_INFO

_BLOCK = re.compile(r"^<(\w+)>\n((?:>.*\n)+)</\1>$", re.MULTILINE)
_ANSWER = re.compile(r"‹answer›.*", re.DOTALL)
_CLAUSE_END = re.compile(r"[.,!?;\n]+")
_WORD = re.compile(r"[a-z]+")
_NO_CLAIM = re.compile(r"\b(?:not|no|never|without|nor|neither|options?|answer)\b", re.IGNORECASE)
"""Clauses that deny something, or that repeat an option's text."""

_QUALITY = (HALLUCINATING, MISSING_INFO, ACCURATE)
"""Verdicts, the worst first."""


@dataclass(frozen=True)
class _Claim:
    word: str
    clause: str


@dataclass(frozen=True)
class _Measured:
    """Color and pitch of the clip; None where the stream was not sent or has none."""

    color: str | None
    pitch: str | None

    def is_false(self, claim: _Claim) -> bool:
        """Whether the clip shows something else; a stream that was not measured decides nothing."""
        value = self.color if claim.word in COLORS else self.pitch
        return value is not None and claim.word != value


def is_trace_prompt(text: str) -> bool:
    """Whether a prompt shows traces, and not the response that a rubric grades."""
    return any(name.startswith("trace") for name, _ in _BLOCK.findall(text))


def judge_traces(text: str, color: str | None, pitch: str | None) -> str:
    """The judge's reply, a JSON object with the fields that the prompt asks for.

    Args:
        text: the prompt.
        color, pitch: as measured in the media of the call; None where the stream was not sent or has none.
    """
    blocks = _blocks(text)
    measured = _Measured(color, pitch)
    if "trace_a" in blocks:
        return json.dumps(_compare(blocks["trace_a"], blocks["trace_b"], measured))
    teachers = {name: body for name, body in blocks.items() if name.endswith("_teacher")}
    if teachers:
        return json.dumps(_attribute(blocks["trace"], teachers, measured))
    return json.dumps(_judge_one(blocks["trace"], measured))


def is_claims_prompt(text: str) -> bool:
    """Whether a prompt asks what a reply claims, see `avrt.judging.claims`."""
    return "reply" in _blocks(text)


def list_claims(text: str) -> str:
    """The judge's reply: a JSON object with the statements about what was seen and heard."""
    reply = _blocks(text)["reply"]
    return json.dumps({"seen": statements(reply, "V"), "heard": statements(reply, "A")})


def _blocks(text: str) -> dict[str, str]:
    """The fenced texts of a prompt by name."""
    return {name: re.sub(r"^> ?", "", body, flags=re.MULTILINE).strip() for name, body in _BLOCK.findall(text)}


def _judge_one(trace: str, measured: _Measured) -> dict[str, Any]:
    claims = list(_claims(trace))
    false = [claim for claim in claims if measured.is_false(claim)]
    return {
        "verdict": _verdict(claims, measured),
        "audio_grounded": _grounded(claims, PITCHES, measured),
        "visual_grounded": _grounded(claims, COLORS, measured),
        "hallucinated_claims": [claim.clause for claim in false],
        "confidence": 1.0,
        "explanation": _explain(false, measured),
    }


def _compare(trace_a: str, trace_b: str, measured: _Measured) -> dict[str, Any]:
    reply: dict[str, Any] = {}
    ranks = []
    for prefix, trace in (("trace_a_", trace_a), ("trace_b_", trace_b)):
        claims = list(_claims(trace))
        verdict = _verdict(claims, measured)
        reply[f"{prefix}verdict"] = verdict
        reply[f"{prefix}audio_grounded"] = _grounded(claims, PITCHES, measured)
        reply[f"{prefix}visual_grounded"] = _grounded(claims, COLORS, measured)
        ranks.append((_QUALITY.index(verdict), -sum(map(measured.is_false, claims))))
    winner = "Tie" if ranks[0] == ranks[1] else "A" if ranks[0] > ranks[1] else "B"
    return {"winner": winner, **reply, "confidence": 1.0, "explanation": _explain([], measured)}


def _attribute(trace: str, teachers: Mapping[str, str], measured: _Measured) -> dict[str, Any]:
    false = [claim for claim in _claims(trace) if measured.is_false(claim)]
    claimed = {name: {claim.word: claim for claim in _claims(text)} for name, text in teachers.items()}
    several = BOTH if len(teachers) == 2 else SEVERAL
    sources = []
    for claim in false:
        names = [name.upper() for name, claims in claimed.items() if claim.word in claims]
        sources.append(MERGER if not names else names[0] if len(names) == 1 else several)
    from_teachers = set(sources) - {MERGER}
    overall = several if len(from_teachers) > 1 else next(iter(from_teachers or set(sources)), NONE)
    accurate = {
        f"{name}_accurate": not any(map(measured.is_false, claims.values())) for name, claims in claimed.items()
    }
    return {
        "hallucinated_claims": [claim.clause for claim in false],
        "source_per_claim": sources,
        "hallucination_source": overall,
        **accurate,
        "merger_faithful": MERGER not in sources,
        "confidence": 1.0,
        "explanation": _explain(false, measured),
    }


def _claims(text: str) -> Iterator[_Claim]:
    """The colors and pitches that a text says are in the clip."""
    for clause in _CLAUSE_END.split(_ANSWER.sub("", text)):
        if _NO_CLAIM.search(clause):
            continue
        for word in dict.fromkeys(_WORD.findall(clause.lower())):
            if word in COLORS or word in PITCHES:
                yield _Claim(word, clause.strip(" ‹think›"))


def _verdict(claims: list[_Claim], measured: _Measured) -> str:
    if any(map(measured.is_false, claims)):
        return HALLUCINATING
    words = {claim.word for claim in claims}
    told = all(value is None or value in words for value in (measured.color, measured.pitch))
    return ACCURATE if told else MISSING_INFO


def _grounded(claims: list[_Claim], words: Mapping[str, Any], measured: _Measured) -> bool:
    own = [claim for claim in claims if claim.word in words]
    return bool(own) and not any(map(measured.is_false, own))


def _explain(false: list[_Claim], measured: _Measured) -> str:
    found = f"The picture is {measured.color or 'not shown'} and the sound is {measured.pitch or 'not heard'}."
    return " ".join([found, *(f"The trace claims {claim.word}." for claim in false)])
