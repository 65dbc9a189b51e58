"""One sample of a trace run: its recorded replies, the filter's decision, and the split."""

from __future__ import annotations

from dataclasses import dataclass

from avrt.sample import Sample
from avrt.traces.call_planner import CallPlanner, PlannedCall
from avrt.traces.call_records import CallRecord
from avrt.traces.ledger import LedgerIndex
from avrt.traces.sample_filter import filter_sample
from avrt.traces.splits import split_of
from avrt.traces.teacher_replies import TeacherReply


@dataclass(frozen=True)
class Decided:
    """One sample with everything that the ledger has about it.

    Attributes:
        index: its index in the shards.
        sample: the question.
        split: the split that it is written to, or would be.
        replies: the teachers' replies by name.
        merge: the merger's call, or None if it is not called.
        merged: the merger's record, or None.
        trace: the target text; None if the sample is dropped.
        reason: ``kept``, or why it is dropped.
        outcomes: how each stage's call ended, see `avrt.traces.sample_filter.Decision`.
    """

    index: int
    sample: Sample
    split: str
    replies: dict[str, TeacherReply]
    merge: PlannedCall | None
    merged: CallRecord | None
    trace: str | None
    reason: str
    outcomes: dict[str, str]


def decide(planner: CallPlanner, ledger: LedgerIndex, index: int) -> Decided:
    """Read one sample's replies from the ledger, filter it, and choose its split."""
    config = planner.config
    sample, replies = planner.teacher_replies(index, ledger)
    merge = planner.merge_call(index, sample, replies)
    merged = ledger.get(merge.key) if merge else None
    decision = filter_sample(sample, replies, merged, config)
    split = sample.split
    if config.val_share is not None:
        split = split_of(sample.source or sample.id, config.split_seed, config.val_share)
    return Decided(index, sample, split, replies, merge, merged, decision.trace, decision.reason, decision.outcomes)
