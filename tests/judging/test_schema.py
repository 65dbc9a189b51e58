"""Replies of judges: the JSON schema that is sent, and the check of what comes back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from avrt.judging.schema import BadVerdictError, schema_of

INDIVIDUAL = {
    "verdict": "ACCURATE",
    "audio_grounded": True,
    "visual_grounded": False,
    "hallucinated_claims": [],
    "confidence": 0.5,
    "explanation": "Fits.",
}
SOURCE = {
    "hallucinated_claims": ["a bee buzzes", "a boat has no sail"],
    "source_per_claim": ["AUDIO_TEACHER", "VISION_TEACHER"],
    "hallucination_source": "BOTH_TEACHERS",
    "audio_teacher_accurate": False,
    "vision_teacher_accurate": False,
    "merger_faithful": True,
    "confidence": 1,
    "explanation": "Both.",
}
TEACHERS = ("audio", "vision")


def read(reply: str) -> dict[str, Any]:
    return schema_of("individual", ()).read(reply)


@pytest.mark.parametrize(
    "form",
    [
        "{}",
        "```json\n{}\n```",
        "Here is my verdict:\n{}\nI hope it helps.",
        '<think>{{"verdict": "HALLUCINATING"}}</think>{}',
        "{}<|im_end|>",
        "\n\n   {}",
    ],
)
def test_the_object_is_found_in_what_is_around_it(form: str) -> None:
    assert read(form.format(json.dumps(INDIVIDUAL))) == INDIVIDUAL
    assert read(form.format(json.dumps(INDIVIDUAL, indent=2))) == INDIVIDUAL


def test_the_last_object_counts() -> None:
    first = json.dumps({**INDIVIDUAL, "verdict": "MISSING_INFO"})
    assert read(f"{first}\nOn second thought:\n{json.dumps(INDIVIDUAL)}")["verdict"] == "ACCURATE"


def test_words_may_differ_in_case_and_spaces_and_further_keys_are_ignored() -> None:
    reply = {**INDIVIDUAL, "verdict": "missing info", "confidence": 1, "mood": {"a": 1}}
    assert read(json.dumps(reply)) == {**INDIVIDUAL, "verdict": "MISSING_INFO", "confidence": 1.0}


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"verdict": "GOOD"}, "verdict"),
        ({"verdict": None}, "verdict"),
        ({"audio_grounded": "true"}, "audio_grounded"),
        ({"audio_grounded": 1}, "audio_grounded"),
        ({"hallucinated_claims": "none"}, "hallucinated_claims"),
        ({"hallucinated_claims": [1]}, "hallucinated_claims"),
        ({"confidence": 1.5}, "confidence"),
        ({"confidence": True}, "confidence"),
        ({"confidence": float("nan")}, "confidence"),
        ({"explanation": 3}, "explanation"),
    ],
)
def test_a_wrong_value_is_refused_by_its_key(change: dict[str, Any], key: str) -> None:
    with pytest.raises(BadVerdictError, match=f"^{key} must be"):
        read(json.dumps({**INDIVIDUAL, **change}))


@pytest.mark.parametrize("reply", ["", "ACCURATE", "[1, 2]", '{"verdict": "ACCURATE"', "{" * 5000, "null"])
def test_a_reply_without_an_object_is_refused(reply: str) -> None:
    with pytest.raises(BadVerdictError, match="no complete JSON object"):
        read(reply)


def test_a_missing_field_is_named() -> None:
    with pytest.raises(BadVerdictError, match="has no confidence, explanation"):
        read(json.dumps({k: v for k, v in INDIVIDUAL.items() if k not in ("confidence", "explanation")}))


def test_sources_follow_the_teachers_names() -> None:
    assert schema_of("source", TEACHERS).read(json.dumps(SOURCE)) == {**SOURCE, "confidence": 1.0}
    three = schema_of("source", ("vision", "audio", "speech-2")).json_schema()["properties"]
    assert three["hallucination_source"]["enum"] == [
        *("VISION_TEACHER", "AUDIO_TEACHER", "SPEECH_2_TEACHER", "SEVERAL_TEACHERS", "MERGER", "NONE")
    ]
    assert "NONE" not in three["source_per_claim"]["items"]["enum"]
    assert three["speech_2_teacher_accurate"] == {"type": "boolean"}
    with pytest.raises(ValueError, match="differ only in case"):
        schema_of("source", ("speech-2", "Speech 2"))


def test_claims_and_sources_must_agree() -> None:
    schema = schema_of("source", TEACHERS)
    by_claim = dict(zip(SOURCE["hallucinated_claims"], SOURCE["source_per_claim"], strict=True))
    assert schema.read(json.dumps({**SOURCE, "source_per_claim": by_claim}))["source_per_claim"] == [*by_claim.values()]
    with pytest.raises(BadVerdictError, match="source_per_claim has 1 entries for 2"):
        schema.read(json.dumps({**SOURCE, "source_per_claim": ["MERGER"]}))
    empty = {"hallucinated_claims": [], "source_per_claim": []}
    with pytest.raises(BadVerdictError, match="hallucination_source is MERGER"):
        schema.read(json.dumps({**SOURCE, **empty, "hallucination_source": "MERGER"}))
    assert (
        schema.read(json.dumps({**SOURCE, **empty, "hallucination_source": "None"}))["hallucination_source"] == "NONE"
    )


@pytest.mark.parametrize("mode", ["individual", "head_to_head", "source"])
def test_the_schema_is_one_that_strict_servers_take(mode: Any) -> None:
    schema = schema_of(mode, TEACHERS).json_schema()
    assert schema["required"] == list(schema["properties"])
    assert schema["additionalProperties"] is False
    assert all(name in schema_of(mode, TEACHERS).describe() for name in schema["properties"])
    paper = {
        "head_to_head": {"winner", "confidence", "explanation"}
        | {f"trace_{a}_{b}" for a in "ab" for b in ("verdict", "audio_grounded", "visual_grounded")},
        "source": {*SOURCE},
    }
    assert mode not in paper or set(schema["properties"]) == paper[mode]
