"""The filter: a question and its recorded replies give the target text of fine-tuning, or a reason to drop the sample.

================ ====================================== =====================================================
variant          samples                                target
================ ====================================== =====================================================
``merged``       both teachers right, merge             the merger's reply
                 well-formatted and correct
``audio_only``   both teachers right                    the audio teacher's reasoning, its answer
``vision_only``  both teachers right                    the vision teacher's reasoning, its answer
``unfiltered``   merge well-formatted, right or wrong   the merger's reply, with its own answer
``answer_only``  as ``merged``                          the bare letter
``format_only``  as ``merged``                          tags around filler without content, and the letter
================ ====================================== =====================================================

For another merger, use a second config with another ``merge`` and ``output`` and the same ledger. No variant calls a
teacher again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from avrt.sample import Sample
from avrt.servers.outcome import Status
from avrt.text.answers import Reason, parse, strip_special_tokens
from avrt.text.prompts import format_target
from avrt.traces.call_planner import TEACHERS, TeacherReply
from avrt.traces.call_records import CallRecord
from avrt.traces.config import Stage, Variant

NO_STREAM = "no_stream"
"""A sample without the frames or audio that a teacher needs."""

MISSING = "missing"
"""No finished call in the ledger."""

FILLER = (
    "Let me look at this question step by step. First I consider what the question asks. Then I go through the "
    "options one after the other and compare them. Taking everything into account, one option fits best, and I choose "
    "it as my answer."
)
"""Thinking without content, for ``format_only``."""

_THINK_TAGS = re.compile(r"<\s*/?\s*(?:think|answer)\s*>|◁\s*/?\s*think\s*▷", re.IGNORECASE)
_ANSWER_PART = re.compile(r"(?:^|\n)\W*answer\W*(?::|\n)[^\n]*\s*$|<\s*answer\s*>.*", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Decision:
    """The filter's decision on one sample.

    Attributes:
        trace: the target text; None if the sample is dropped.
        reason: ``kept``, or why it is dropped.
        outcomes: how each stage's call ended, by stage: ``right``, ``wrong``, a reason of `avrt.text.answers`, a status
            of the ledger, ``missing``, ``no_stream``, or ``not_needed`` for a merge of a sample that the filter drops.
    """

    trace: str | None
    reason: str
    outcomes: dict[Stage, str]


def filter_sample(
    sample: Sample, replies: dict[Stage, TeacherReply], merged: CallRecord | None, variant: Variant
) -> Decision:
    """Decide on one sample.

    Args:
        sample: the question.
        replies: both teachers' replies.
        merged: the merger's record, or None.
        variant: kind of target text.
    """
    outcomes = {stage: _teacher_outcome(replies[stage]) for stage in TEACHERS}
    outcomes["merge"] = "not_needed"
    right = {stage: outcomes[stage] == "right" for stage in TEACHERS}
    whole = all(replies[s].record is not None and replies[s].parsed is not None for s in TEACHERS)
    if variant == "unfiltered":
        if not whole:
            return Decision(None, _first_failure(outcomes), outcomes)
    elif not all(right.values()):
        return Decision(None, _filter_reason(outcomes, right), outcomes)
    if variant in ("audio_only", "vision_only"):
        stage: Stage = "audio" if variant == "audio_only" else "vision"
        record = replies[stage].record
        assert record is not None
        trace = teacher_target(record.reply, sample.gold)
        return Decision(trace, "kept" if trace else f"{stage}_{Reason.EMPTY_THINK.value}", outcomes)

    trace, outcomes["merge"] = _merged_trace(sample, merged)
    if trace is None or (variant != "unfiltered" and outcomes["merge"] == "wrong"):
        return Decision(None, f"merge_{outcomes['merge']}", outcomes)
    if variant == "answer_only":
        trace = sample.gold
    elif variant == "format_only":
        trace = format_target(FILLER, sample.gold)
    return Decision(trace, "kept", outcomes)


def teacher_target(reply: str, letter: str) -> str | None:
    """A teacher's reply as a target: the reply without its final answer line as thinking, then the letter.

    None if it wrote nothing but the answer.
    """
    text = _THINK_TAGS.sub("\n", _ANSWER_PART.sub("", strip_special_tokens(reply)))
    think = re.sub(r"\n{3,}", "\n\n", text).strip()
    return format_target(think, letter) if think else None


def _teacher_outcome(reply: TeacherReply) -> str:
    if not reply.has_stream:
        return NO_STREAM
    if reply.record is None or reply.record.status is Status.GAVE_UP:
        return MISSING
    if reply.parsed is None:
        return reply.record.status.value
    if reply.right:
        return "right"
    return "wrong" if reply.parsed.letter is not None else reply.parsed.reason.value


def _merged_trace(sample: Sample, record: CallRecord | None) -> tuple[str | None, str]:
    """The merger's reply as a target, and its outcome: it must have the format and name one option."""
    if record is None or record.status is Status.GAVE_UP:
        return None, MISSING
    if record.status is not Status.OK:
        return None, record.status.value
    # Thinking that the server separated is put back in front only if the reply itself has no thinking.
    text = record.text if "<think>" in record.text else record.reply
    parsed = parse(text, sample, "paper", record.finish_reason)
    if parsed.letter is None or parsed.reason is not Reason.OK:
        return None, parsed.reason.value
    assert parsed.think is not None
    # Formatted again, so that all targets have the same white space around their tags.
    return format_target(parsed.think, parsed.letter), "right" if sample.is_right(parsed.letter) else "wrong"


def _filter_reason(outcomes: dict[Stage, str], right: dict[Stage, bool]) -> str:
    """Why the filter drops a sample: the teacher without an answer, or the teachers that were wrong."""
    for stage in TEACHERS:
        if not right[stage] and outcomes[stage] != "wrong":
            return f"{stage}_{outcomes[stage]}"
    wrong = [stage for stage in TEACHERS if not right[stage]]
    return "both_wrong" if len(wrong) == 2 else f"{wrong[0]}_wrong"


def _first_failure(outcomes: dict[Stage, str]) -> str:
    for stage in TEACHERS:
        if outcomes[stage] in (NO_STREAM, MISSING) or outcomes[stage] in {status.value for status in Status}:
            return f"{stage}_{outcomes[stage]}"
    raise AssertionError("no stage failed")
