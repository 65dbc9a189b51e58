"""The questions that each teacher of a trace run answers right, from its ledger."""

from __future__ import annotations

from avrt.data.shards import ShardSet
from avrt.traces.call_planner import TEACHERS, CallPlanner
from avrt.traces.config import TracesConfig
from avrt.traces.ledger import LedgerIndex


def read_ledger_outcomes(config: TracesConfig) -> tuple[dict[str, bool], dict[str, bool]]:
    """Right or wrong by sample id, for the vision and the audio teacher of a trace run, as its filter judges them.

    A teacher whose stream the sample lacks, or whose call was refused or cut, is wrong.

    Raises:
        ValueError: calls are missing; the trace run is not finished.
    """
    planner = CallPlanner(config, ShardSet(config.shards, split=config.split))
    ledger = LedgerIndex(config.ledger)
    outcomes: dict[str, dict[str, bool]] = {stage: {} for stage in TEACHERS}
    missing = 0
    for index in range(len(planner.shards)):
        sample, replies = planner.teacher_replies(index, ledger)
        for stage, reply in replies.items():
            missing += reply.has_stream and reply.record is None
            outcomes[stage][sample.id] = reply.right
    if missing:
        raise ValueError(
            f"{config.ledger}: {missing} calls of the teachers are missing; run `avrt traces` with --stage vision and "
            "--stage audio first"
        )
    return outcomes["vision"], outcomes["audio"]
