"""The filter's rules by name, with one sample per teacher and with several."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from avrt.sample import Sample
from avrt.servers.outcome import Status
from avrt.text.answers import is_formatted
from avrt.traces.call_records import CallRecord
from avrt.traces.config import Rule, TracesConfig
from avrt.traces.filter_rules import reason_to_drop, teacher_outcome
from avrt.traces.sample_filter import filter_sample
from avrt.traces.teacher_replies import TeacherReply, read_teacher
from tests.traces.question_set import change_stage, make_config

SAMPLE = Sample("s", "Which?", ("cat", "dog", "owl", "fox"), 1)
VOTERS = ("vision", "audio", "speech")


def record(text: str, status: Status = Status.OK) -> CallRecord:
    finish = "length" if status is Status.LENGTH else "stop"
    return CallRecord(key="k", stage="t", sample="s", status=status, text=text, finish_reason=finish)


def replies(letters: str) -> TeacherReply:
    """One letter per sample; ``-`` was cut, ``?`` is not made yet, ``0`` names no option."""
    known = {"-": record("", Status.LENGTH), "?": None, "0": record("I cannot say.")}
    return read_teacher(
        [known[name] if name in known else record(f"Seen.\nAnswer: ({name})") for name in letters], SAMPLE
    )


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ("right right right", {"all_right": None, "any_right": None, "majority": None, "none": None}),
        ("right right wrong", {"all_right": "speech_wrong", "any_right": None, "majority": None, "none": None}),
        ("right wrong wrong", {"all_right": "several_wrong", "any_right": None, "majority": "no_majority"}),
        ("wrong wrong wrong", {"all_right": "all_wrong", "any_right": "none_right", "none": None}),
        ("right no_stream right", {"all_right": "audio_no_stream", "majority": None, "none": "audio_no_stream"}),
        ("right no_stream no_stream", {"all_right": "audio_no_stream", "majority": None}),
        # One of two that have their stream is no majority.
        ("right no_stream wrong", {"majority": "no_majority", "any_right": None}),
        ("wrong length right", {"all_right": "audio_length", "any_right": None, "none": "audio_length"}),
        ("right missing right", {"any_right": "audio_missing", "majority": "audio_missing", "none": "audio_missing"}),
    ],
)
def test_a_rule_keeps_or_names_its_reason(outcomes: str, expected: dict[Rule, str | None]) -> None:
    by_name = dict(zip(VOTERS, outcomes.split(), strict=True))
    for rule, reason in expected.items():
        assert reason_to_drop(by_name, VOTERS, rule) == reason, rule


def test_two_wrong_teachers_keep_the_papers_reason() -> None:
    outcomes = {"vision": "wrong", "audio": "wrong"}
    assert reason_to_drop(outcomes, tuple(outcomes), "all_right") == "both_wrong"


@pytest.mark.parametrize(
    ("outcome", "all_right", "none"), [("transcribed", None, None), ("rejected", "text_rejected", "text_rejected")]
)
def test_a_transcriber_has_no_vote_but_must_reply_where_all_must(
    outcome: str, all_right: str | None, none: str | None
) -> None:
    outcomes = {"vision": "right", "audio": "right", "speech": "right", "text": outcome}
    assert reason_to_drop(outcomes, VOTERS, "all_right") == all_right
    assert reason_to_drop(outcomes, VOTERS, "none") == none
    assert reason_to_drop({**outcomes, "audio": "wrong"}, VOTERS, "majority") is None
    split = {"vision": "right", "audio": "wrong", "text": "transcribed"}
    assert reason_to_drop(split, ("vision", "audio"), "majority") == "no_majority"


@pytest.mark.parametrize(
    ("letters", "share", "outcome", "agreement", "right_share"),
    [
        ("B", 0.5, "right", 1.0, 1.0),
        ("A", 0.5, "wrong", 1.0, 0.0),
        ("BBAB", 0.75, "right", 0.75, 0.75),
        ("BBAB", 1.0, "wrong", 0.75, 0.75),
        ("AABB", 0.5, "wrong", 0.5, 0.5),  # the merger would read a wrong reply
        ("BBAA", 0.5, "right", 0.5, 0.5),
        ("B-0A", 0.5, "wrong", 0.25, 0.25),
        ("----", 0.5, "length", 0.0, 0.0),
    ],
)
def test_a_teacher_with_samples_is_right_by_share(
    letters: str, share: float, outcome: str, agreement: float, right_share: float, config: TracesConfig
) -> None:
    reply = replies(letters)
    config = replace(config, min_right_share=share)
    assert teacher_outcome(reply, config) == outcome
    # A teacher whose own reply is the target can give its right one.
    assert (teacher_outcome(reply, replace(config, variant="vision_only")) == "right") == (right_share >= share)
    assert (reply.agreement, reply.right_share) == (agreement, right_share)


def test_a_teacher_with_a_call_to_be_made_is_missing(config: TracesConfig) -> None:
    assert teacher_outcome(replies("BB?B"), config) == "missing"


def test_the_first_reply_with_the_most_common_answer_represents_a_teacher() -> None:
    """Not a right one: which option is gold must not decide what the merger reads."""
    chosen = [replies("ABBA"), replies("CBBA"), replies("0-AB"), replies("-0"), replies("-?")]
    letters = [reply.parsed.letter if reply.parsed else None for reply in chosen]
    assert letters == ["A", "B", "A", None, None]
    assert chosen[3].record is not None
    assert chosen[3].record.text == "I cannot say."


@pytest.fixture
def config(tmp_path: Path) -> TracesConfig:
    return make_config(tmp_path, tmp_path, "http://h/v1", filter="any_right")


def test_one_teacher_alone_must_be_right_itself(config: TracesConfig) -> None:
    both = {"vision": replies("B"), "audio": replies("A")}
    for variant, reason in (("vision_only", "kept"), ("audio_only", "audio_wrong")):
        assert filter_sample(SAMPLE, both, None, replace(config, variant=variant)).reason == reason
    # Without a rule, its own answer is the target's.
    free = filter_sample(SAMPLE, both, None, replace(config, variant="audio_only", filter="none"))
    assert free.trace == "<think>Seen.</think>\n<answer>A</answer>"


def test_a_low_share_takes_a_right_reply_as_the_target(config: TracesConfig) -> None:
    config = change_stage(replace(config, variant="vision_only", min_right_share=0.2), "vision", samples=4)
    texts = ["Cats.\nAnswer: (A)", "More cats.\nAnswer: (A)", "A dog.\nAnswer: (B)", "Owls.\nAnswer: (C)"]
    vision = read_teacher([record(text) for text in texts], SAMPLE)
    decision = filter_sample(SAMPLE, {"vision": vision, "audio": replies("A")}, None, config)
    assert decision.trace == "<think>A dog.</think>\n<answer>B</answer>"


@pytest.mark.parametrize(
    ("limit", "expected"), [(8000, "long long long"), (50, "Short."), (10, None)], ids=["whole", "final", "dropped"]
)
def test_a_long_target_loses_its_thinking_or_is_dropped(config: TracesConfig, limit: int, expected: str | None) -> None:
    config = replace(config, variant="vision_only", max_target_chars=limit)
    vision = read_teacher([record("<think>long long long</think>\nShort.\nAnswer: (B)")], SAMPLE)
    decision = filter_sample(SAMPLE, {"vision": vision, "audio": replies("B")}, None, config)
    if expected is None:
        assert (decision.trace, decision.reason) == (None, "vision_too_long")
    else:
        assert decision.trace is not None
        assert is_formatted(decision.trace)
        assert expected in decision.trace
        assert ("long" in decision.trace) == (limit == 8000)


@pytest.mark.parametrize("variant", ["answer_only", "format_only", "vision_only"])
def test_without_a_merger_the_teachers_decide(config: TracesConfig, variant: str) -> None:
    config = replace(config, merge=None, variant=variant)
    config.check()
    decision = filter_sample(SAMPLE, {"vision": replies("B"), "audio": replies("A")}, None, config)
    assert decision.reason == "kept"
    assert decision.outcomes == {"vision": "right", "audio": "wrong"}
