"""The fields of a verdict: as a JSON schema for the server, as text for the prompt, and as the check of every reply."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from avrt.files.json_text import whole_text
from avrt.traces.prompts import without_thinking
from avrt.traces.verdicts import VERDICTS, Mode

SHOWN = 80
"""Characters of a wrong value that an error shows."""

MERGER, NONE, BOTH, SEVERAL = "MERGER", "NONE", "BOTH_TEACHERS", "SEVERAL_TEACHERS"

_BRACE = re.compile(r"^[ \t]*(\{)", re.MULTILINE)


class BadVerdictError(ValueError):
    """A reply that is not a valid verdict; the message says what is wrong with it."""


@dataclass(frozen=True)
class Field:
    """One key of a verdict.

    Attributes:
        name: the key.
        kind: ``choice``: one of `choices`; ``flag``: true or false; ``share``: a number from 0 to 1; ``text``;
            ``texts``: a list of texts; ``choices``: a list with one of `choices` per entry of the field `per`.
        meaning: for the judge.
        choices: words that are allowed.
        per: name of the field whose entries a list of choices belongs to.
    """

    name: str
    kind: Literal["choice", "flag", "share", "text", "texts", "choices"]
    meaning: str
    choices: tuple[str, ...] = ()
    per: str = ""

    @property
    def form(self) -> str:
        """The allowed values in words."""
        words = ", ".join(f'"{choice}"' for choice in self.choices)
        return {
            "choice": f"one of {words}",
            "flag": "true or false",
            "share": "a number from 0 to 1",
            "text": "text",
            "texts": "a list of texts, empty if there is none",
            "choices": f"a list with one of {words} for each entry of {self.per}",
        }[self.kind]

    def json_schema(self) -> dict[str, Any]:
        """The field's part of the JSON schema, with the keywords that all servers know."""
        choice: dict[str, Any] = {"type": "string", "enum": list(self.choices)}
        schemas: dict[str, dict[str, Any]] = {
            "choice": choice,
            "flag": {"type": "boolean"},
            "share": {"type": "number"},
            "text": {"type": "string"},
            "texts": {"type": "array", "items": {"type": "string"}},
            "choices": {"type": "array", "items": choice},
        }
        return schemas[self.kind]

    def read(self, value: Any) -> Any:
        """A value in its standard spelling.

        Raises:
            BadVerdictError: it is not allowed.
        """
        read = self._read(value)
        if read is None:
            raise BadVerdictError(f"{self.name} must be {self.form}, not {json.dumps(value)[:SHOWN]}")
        return read

    def _read(self, value: Any) -> Any:
        match self.kind:
            case "choice":
                return self._choice(value)
            case "choices":
                # Some judges give {claim: source} where a list was asked for.
                listed = list(value.values()) if isinstance(value, dict) else value
                read = [self._choice(item) for item in listed] if isinstance(listed, list) else [None]
                return None if None in read else read
            case "flag":
                return value if isinstance(value, bool) else None
            case "share":
                is_number = isinstance(value, int | float) and not isinstance(value, bool)
                return float(value) if is_number and 0 <= value <= 1 else None
            case "text":
                return whole_text(value) if isinstance(value, str) else None
            case "texts":
                listed = value if isinstance(value, list) else [None]
                return [whole_text(item) for item in listed] if all(isinstance(item, str) for item in listed) else None

    def _choice(self, value: Any) -> str | None:
        """A choice, in any case, with spaces or hyphens for underscores."""
        word = re.sub(r"[\s-]+", "_", value.strip()).upper() if isinstance(value, str) else None
        return next((choice for choice in self.choices if choice.upper() == word), None)


@dataclass(frozen=True)
class Schema:
    """The fields of one mode's verdicts, in order."""

    fields: tuple[Field, ...]

    def json_schema(self) -> dict[str, Any]:
        """The schema in the form of ``response_format``; all fields required and no others, as strict servers want."""
        return {
            "type": "object",
            "properties": {field.name: field.json_schema() for field in self.fields},
            "required": [field.name for field in self.fields],
            "additionalProperties": False,
        }

    def describe(self) -> str:
        """How to reply, for the end of a prompt."""
        lines = [f'- "{field.name}": {field.form}: {field.meaning}' for field in self.fields]
        return "Reply with one JSON object and nothing else. It has exactly these fields:\n" + "\n".join(lines)

    def read(self, reply: str) -> dict[str, Any]:
        """The verdict of a reply, in the schema's order. Text around the JSON object and further keys are ignored.

        Raises:
            BadVerdictError: there is no JSON object, or a field is missing or has a value that is not allowed.
        """
        text = without_thinking(reply)
        found = list(_objects(text))
        if not found:
            raise BadVerdictError("the reply has no complete JSON object")
        values = found[-1]
        if missing := [field.name for field in self.fields if field.name not in values]:
            raise BadVerdictError(f"the JSON object has no {', '.join(missing)}")
        verdict = {field.name: field.read(values[field.name]) for field in self.fields}
        for field in self.fields:
            if field.per and len(verdict[field.name]) != len(verdict[field.per]):
                raise BadVerdictError(
                    f"{field.name} has {len(verdict[field.name])} entries for {len(verdict[field.per])} {field.per}"
                )
        if source := verdict.get("hallucination_source"):
            count = len(verdict["hallucinated_claims"])
            if (source == NONE) != (count == 0):
                raise BadVerdictError(f"hallucination_source is {source}, and hallucinated_claims has {count} entries")
        return verdict


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects that begin a line, and the first one of the text, none within another."""
    decoder = json.JSONDecoder(parse_constant=lambda name: math.nan)
    begins = sorted({text.find("{"), *(match.start(1) for match in _BRACE.finditer(text))} - {-1})
    end = 0
    for begin in begins:
        if begin < end:
            continue
        try:
            value, end = decoder.raw_decode(text, begin)
        except (ValueError, RecursionError):
            continue
        yield value


CONFIDENCE = Field("confidence", "share", "how sure you are")
EXPLANATION = Field("explanation", "text", "the reasons, in two to four sentences")


def schema_of(mode: Mode, teachers: Sequence[str]) -> Schema:
    """The fields of a mode's verdicts.

    Args:
        mode: kind of question.
        teachers: names of the teachers, for ``source``.
    """
    if mode == "individual":
        return Schema(
            (
                Field("verdict", "choice", "the trace as a whole", VERDICTS),
                *_grounding("", "the trace"),
                Field("hallucinated_claims", "texts", "each false or fabricated observation, as the trace words it"),
                CONFIDENCE,
                EXPLANATION,
            )
        )
    if mode == "head_to_head":
        traces: list[Field] = []
        for letter in "ab":
            prefix, name = f"trace_{letter}_", f"trace {letter.upper()}"
            traces += [Field(f"{prefix}verdict", "choice", name, VERDICTS), *_grounding(prefix, name)]
        return Schema(
            (Field("winner", "choice", "the better trace", ("A", "B", "Tie")), *traces, CONFIDENCE, EXPLANATION)
        )
    sources = tuple(source_meanings(teachers))
    accurate = (
        Field(accurate_key(name), "flag", f"whether everything that the {name} teacher observes is in the clip")
        for name in teachers
    )
    return Schema(
        (
            Field("hallucinated_claims", "texts", "each false or fabricated observation of the final trace"),
            Field("source_per_claim", "choices", "where it comes from", sources[:-1], "hallucinated_claims"),
            Field("hallucination_source", "choice", "where they come from as a whole", sources),
            *accurate,
            Field("merger_faithful", "flag", "whether the final trace adds nothing that no teacher reports"),
            CONFIDENCE,
            EXPLANATION,
        )
    )


def _grounding(prefix: str, trace: str) -> tuple[Field, Field]:
    return (
        Field(f"{prefix}audio_grounded", "flag", f"{trace} names sounds, and they are in the audio"),
        Field(f"{prefix}visual_grounded", "flag", f"{trace} names things to see, and they are in the images"),
    )


def source_of_teacher(name: str) -> str:
    """A teacher as a source: ``VISION_TEACHER`` for ``vision``."""
    return f"{re.sub(r'[^A-Z0-9]+', '_', name.upper())}_TEACHER"


def accurate_key(name: str) -> str:
    """The key that says whether a teacher is right: ``vision_teacher_accurate``."""
    return f"{source_of_teacher(name).lower()}_accurate"


def source_meanings(teachers: Sequence[str]) -> Mapping[str, str]:
    """Every source of a hallucination with its meaning for the judge; the last one is `NONE`.

    Raises:
        ValueError: two teachers' names give the same source.
    """
    meanings = {
        source_of_teacher(name): f"it goes back to a false claim of the {name} teacher alone" for name in teachers
    }
    if len(meanings) < len(teachers):
        raise ValueError(f"teachers: the names {', '.join(teachers)} differ only in case or punctuation")
    if len(teachers) > 1:
        meanings[BOTH if len(teachers) == 2 else SEVERAL] = "more than one teacher contributed false claims to it"
    meanings[MERGER] = "no teacher reports it: the merger invented or distorted it"
    meanings[NONE] = "after all, nothing in the final trace is false"
    return meanings
