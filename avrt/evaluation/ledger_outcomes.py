"""What the two teachers of a trace run answered right, read from its ledger."""

from __future__ import annotations

from avrt.data.shards import ShardSet
from avrt.traces.config import TracesConfig
from avrt.traces.ledger import LedgerIndex
from avrt.traces.planning import TEACHERS, Planner


def ledger_outcomes(config: TracesConfig) -> tuple[dict[str, bool], dict[str, bool]]:
    """Right or wrong by sample id, of the vision and of the audio teacher, as the trace filter judges them.

    A teacher that cannot be asked (the sample lacks its stream), or whose call was refused or cut, is wrong.

    Raises:
        ValueError: calls are missing; the trace run is not finished.
    """
    planner = Planner(config, ShardSet(config.shards, split=config.split))
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
