"""The questions that each teacher of a trace run answers right, from its ledger."""

from __future__ import annotations

from avrt.data.shards import ShardSet
from avrt.traces.call_planner import CallPlanner
from avrt.traces.config import TracesConfig
from avrt.traces.filter_rules import RIGHT, teacher_outcome
from avrt.traces.ledger import LedgerIndex


def read_ledger_outcomes(config: TracesConfig) -> tuple[dict[str, bool], dict[str, bool]]:
    """Right or wrong by sample id, for the vision and the audio teacher of a trace run, as its filter judges them.

    A teacher whose stream the sample lacks, or whose call was refused or cut, is wrong.

    Raises:
        ValueError: the run has no teachers ``vision`` and ``audio``, or calls are missing; the run is not finished.
    """
    names = ("vision", "audio")
    if not set(names) <= set(config.teachers):
        raise ValueError(
            f"teachers: subsets need the teachers vision and audio; there are {', '.join(config.teachers)}"
        )
    planner = CallPlanner(config, ShardSet(config.shards, split=config.split))
    ledger = LedgerIndex(config.ledger)
    outcomes: dict[str, dict[str, bool]] = {name: {} for name in names}
    missing = 0
    for index in range(len(planner.shards)):
        sample, replies = planner.teacher_replies(index, ledger)
        for name in names:
            missing += sum(one.record is None for one in replies[name].samples)
            outcomes[name][sample.id] = teacher_outcome(replies[name], config) == RIGHT
    if missing:
        raise ValueError(
            f"{config.ledger}: {missing} calls of the teachers are missing; run `avrt traces` with --stage vision and "
            "--stage audio first"
        )
    return outcomes["vision"], outcomes["audio"]
