"""Rules by which the teachers' answers keep or drop a sample.

============== ==========================================================================================
rule           keeps a sample if
============== ==========================================================================================
``all_right``  every teacher is right (the paper's filter), and a transcriber has a transcript
``any_right``  at least one teacher is right
``majority``   more than half of the teachers that have their stream are right
``none``       every teacher has a complete reply, right or wrong
============== ==========================================================================================

A teacher is right if its most common answer is, and the share of its samples that are right is `min_right_share` or
more; with one sample, if that is right. Where one teacher alone is the target (`TracesConfig.alone`), the share is
enough: the first right sample is taken. The merger would read the most common answer, which may be a wrong one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from avrt.servers.outcome import Status
from avrt.traces.config import Rule, TracesConfig
from avrt.traces.teacher_replies import TeacherReply

RIGHT, WRONG = "right", "wrong"

TRANSCRIBED = "transcribed"
"""A complete reply of a teacher that transcribes."""

NO_STREAM = "no_stream"
"""A sample without the frames or audio that a teacher needs."""

MISSING = "missing"
"""No finished call in the ledger."""

_UNFINISHED = frozenset({NO_STREAM, MISSING, *(status.value for status in Status)})
"""Outcomes of a teacher without a complete reply."""


def teacher_outcome(reply: TeacherReply, config: TracesConfig) -> str:
    """How a teacher did: ``right``, ``wrong``, why it has no answer, or how its call ended."""
    if not reply.has_stream:
        return NO_STREAM
    if reply.missing or reply.record is None:
        return MISSING
    if not reply.votes:
        return TRANSCRIBED if reply.complete else reply.record.status.value
    if reply.right_share >= config.min_right_share and (reply.right or config.alone is not None):
        return RIGHT
    if reply.parsed is None:
        return reply.record.status.value
    return WRONG if reply.parsed.letter is not None else reply.parsed.reason.value


def reason_to_drop(outcomes: Mapping[str, str], voters: Collection[str], rule: Rule) -> str | None:
    """Why a rule drops a sample, or None if it is kept.

    Args:
        outcomes: see `teacher_outcome`, by teacher.
        voters: the teachers that answer; the others transcribe.
        rule: see the table above.
    """
    if rule == "none":
        return next((f"{name}_{outcome}" for name, outcome in outcomes.items() if outcome in _UNFINISHED), None)
    right = [name for name in voters if outcomes[name] == RIGHT]
    if rule == "all_right":
        return _first_not_right(outcomes, voters)
    if missing := next((name for name, outcome in outcomes.items() if outcome == MISSING), None):
        return f"{missing}_{MISSING}"
    if rule == "any_right":
        return None if right else "none_right"
    asked = [name for name in voters if outcomes[name] != NO_STREAM]
    return None if 2 * len(right) > len(asked) else "no_majority"


def _first_not_right(outcomes: Mapping[str, str], voters: Collection[str]) -> str | None:
    """The teacher without an answer, or the teachers that were wrong; None if all are right."""
    for name, outcome in outcomes.items():
        if outcome not in (RIGHT, WRONG, TRANSCRIBED):
            return f"{name}_{outcome}"
    wrong = [name for name in voters if outcomes[name] == WRONG]
    if not wrong:
        return None
    if len(wrong) == 1:
        return f"{wrong[0]}_{WRONG}"
    if len(wrong) < len(voters):
        return "several_wrong"
    return "both_wrong" if len(wrong) == 2 else "all_wrong"
