"""A merger's trace is found wherever its server has put the thinking."""

from __future__ import annotations

from pathlib import Path

import pytest

from avrt.sample import Sample
from avrt.servers.outcome import Status
from avrt.traces.call_records import CallRecord
from avrt.traces.sample_filter import filter_sample
from avrt.traces.teacher_replies import read_teacher
from tests.traces.question_set import make_config

SAMPLE = Sample("s", "Which animal?", ("dog", "cat"), 1)
CONFIG = make_config(Path("shards"), Path("run"), "http://localhost:8000/v1")
TRACE = "<think>Heard and seen.</think>\n<answer>B</answer>"


def record(stage: str, text: str, reasoning: str = "") -> CallRecord:
    return CallRecord(
        key="k", stage=stage, sample="s", status=Status.OK, text=text, reasoning=reasoning, finish_reason="stop"
    )


def outcome(text: str, reasoning: str = "") -> tuple[str | None, str]:
    right = read_teacher([record("vision", "Answer: B")], SAMPLE)
    merged = record("merge", text, reasoning)
    decision = filter_sample(SAMPLE, {"vision": right, "audio": right}, merged, CONFIG)
    return decision.trace, decision.reason


@pytest.mark.parametrize(
    ("text", "reasoning"),
    [
        (TRACE, ""),
        (TRACE, "Let me merge these two."),
        (TRACE + "<|im_end|>", ""),
        ("<answer>B</answer>", "Heard and seen."),
        # The server leaves the tags in the thinking that it takes out.
        ("\n<answer>B</answer>", "<think>Heard and seen.</think>"),
        ("\n<answer>B</answer>", "<think>\nHeard and seen.\n"),
        # SGLang removes every opening tag of a reply.
        ("Heard and seen.</think>\n<answer>B</answer>", "Let me merge these two."),
        # The chat template opens the thinking, so that the reply begins inside it.
        ("Heard and seen.</think>\n<answer>B</answer>", ""),
        ("Let me merge: the answer goes into <answer>B</answer>.\n</think>\n\n" + TRACE, ""),
        # Qwen3 without thinking, and Kimi-VL.
        ("<think>\n\n</think>\n\n" + TRACE, ""),
        ("◁think▷Let me merge.◁/think▷" + TRACE, ""),
    ],
)
def test_the_trace_is_found(text: str, reasoning: str) -> None:
    assert outcome(text, reasoning) == (TRACE, "kept")


@pytest.mark.parametrize(
    ("text", "reasoning", "reason"),
    [
        # Two blocks may be two halves of a trace.
        ("<think>Heard.</think>\n<think>Seen.</think>\n<answer>B</answer>", "", "merge_duplicate_tag"),
        ("<think>a</think><answer>A</answer>" + TRACE, "", "merge_duplicate_tag"),
        ("a</think>b</think><answer>B</answer>", "", "merge_duplicate_tag"),
        ("Sure!\n" + TRACE, "", "merge_trailing_text"),
        ("Sure!\n" + TRACE, "Let me merge these two.", "merge_trailing_text"),
        ("<answer>B</answer>", "", "merge_empty_think"),
        ("<answer>A</answer>", "Heard and seen.", "merge_wrong"),
        ("The answer is B.", "Heard and seen.", "merge_no_answer_tag"),
    ],
)
def test_a_reply_without_the_format_is_still_dropped(text: str, reasoning: str, reason: str) -> None:
    assert outcome(text, reasoning) == (None, reason)
