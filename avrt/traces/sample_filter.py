"""The filter: a question and its recorded replies give the target text of fine-tuning, or a reason to drop the sample.

================ ============================================ ================================================
variant          samples                                      target
================ ============================================ ================================================
``merged``       teachers right by the rule, merge            the merger's reply
                 well-formatted and correct
``NAME_only``    teachers right by the rule, and the teacher  that teacher's reasoning, its answer
                 NAME too
``unfiltered``   every teacher complete, merge                the merger's reply, with its own answer
                 well-formatted, right or wrong
``answer_only``  as ``merged``                                the bare letter
``format_only``  as ``merged``                                tags around filler without content, and the letter
================ ============================================ ================================================

`avrt.traces.filter_rules` has the rules. Without a merger, ``answer_only`` and ``format_only`` need the teachers alone.
For another merger, use a second config with another ``merge`` and ``output`` and the same ledger. No variant calls a
teacher again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from avrt.sample import Sample
from avrt.servers.outcome import Status
from avrt.text.answers import Reason, parse, strip_special_tokens
from avrt.text.prompts import format_target
from avrt.traces.call_records import CallRecord
from avrt.traces.config import MERGE, TracesConfig
from avrt.traces.filler import filler
from avrt.traces.filter_rules import MISSING, RIGHT, WRONG, reason_to_drop, teacher_outcome
from avrt.traces.merger_reply import merger_text
from avrt.traces.prompts import without_thinking
from avrt.traces.teacher_replies import TeacherReply

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
    outcomes: dict[str, str]


def filter_sample(
    sample: Sample, replies: Mapping[str, TeacherReply], merged: CallRecord | None, config: TracesConfig
) -> Decision:
    """Decide on one sample.

    Args:
        sample: the question.
        replies: the replies of every teacher.
        merged: the merger's record, or None.
        config: variant, filter rule, and whether there is a merger.
    """
    teachers = {name: teacher_outcome(reply, config) for name, reply in replies.items()}
    outcomes = dict(teachers)
    if config.merge is not None:
        outcomes[MERGE] = "not_needed"
    if reason := reason_to_drop(teachers, config.voters, config.rule):
        return Decision(None, reason, outcomes)
    if config.alone is not None:
        trace, reason = _alone(sample, config.alone, replies[config.alone], teachers[config.alone], config)
        return Decision(trace, reason, outcomes)
    trace = sample.gold
    if config.merge is not None:
        merge_trace, outcomes[MERGE] = _merged_trace(sample, merged)
        if merge_trace is None or (config.variant != "unfiltered" and outcomes[MERGE] == WRONG):
            return Decision(None, f"{MERGE}_{outcomes[MERGE]}", outcomes)
        trace = merge_trace
    if config.variant == "answer_only":
        trace = sample.gold
    elif config.variant == "format_only":
        trace = format_target(filler(sample.id, config.fillers), sample.gold)
    return Decision(trace, "kept", outcomes)


def _alone(
    sample: Sample, name: str, reply: TeacherReply, outcome: str, config: TracesConfig
) -> tuple[str | None, str]:
    """The target of one teacher alone, and the reason: its right reply, or any with an answer if there is no rule."""
    if config.rule != "none" and outcome != RIGHT:
        return None, f"{name}_{outcome}"
    record, letter = reply.record, None if reply.parsed is None else reply.parsed.letter
    if outcome == RIGHT:
        # The most common answer may be a wrong one if `min_right_share` is low.
        record = reply.record if reply.right else next(one.record for one in reply.samples if one.right)
        letter = sample.gold
    if letter is None or record is None:
        return None, f"{name}_{outcome}"
    trace = teacher_target(record.reply, letter)
    if trace is not None and len(trace) > config.max_target_chars:
        trace = teacher_target(without_thinking(record.reply), letter)
        if trace is None or len(trace) > config.max_target_chars:
            return None, f"{name}_too_long"
    return trace, "kept" if trace else f"{name}_{Reason.EMPTY_THINK.value}"


def teacher_target(reply: str, letter: str) -> str | None:
    """A teacher's reply as a target: the reply without its final answer line as thinking, then the letter.

    None if it wrote nothing but the answer.
    """
    text = _THINK_TAGS.sub("\n", _ANSWER_PART.sub("", strip_special_tokens(reply)))
    think = re.sub(r"\n{3,}", "\n\n", text).strip()
    return format_target(think, letter) if think else None


def _merged_trace(sample: Sample, record: CallRecord | None) -> tuple[str | None, str]:
    """The merger's reply as a target, and its outcome: it must have the format and name one option."""
    if record is None or record.status is Status.GAVE_UP:
        return None, MISSING
    if record.status is not Status.OK:
        return None, record.status.value
    parsed = parse(merger_text(record), sample, "paper", record.finish_reason)
    if parsed.letter is None or parsed.reason is not Reason.OK:
        return None, parsed.reason.value
    assert parsed.think is not None
    # Formatted again, so that all targets have the same white space around their tags.
    return format_target(parsed.think, parsed.letter), "right" if sample.is_right(parsed.letter) else "wrong"
