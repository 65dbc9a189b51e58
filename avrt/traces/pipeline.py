"""A whole trace run: vision teacher, audio teacher, merge, then filter and write."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from avrt.data.shards import ShardSet
from avrt.files.folder_lock import LOCK_NAME, FolderLock
from avrt.servers.client import StageError
from avrt.servers.config import Stage, api_key
from avrt.traces.config import STAGES, TracesConfig, check_config
from avrt.traces.finalise import finalise
from avrt.traces.output import check_output
from avrt.traces.planning import Planner
from avrt.traces.stage_report import StageReport
from avrt.traces.stages import run_stage

log = logging.getLogger(__name__)

WRITE = "write"
STEPS: tuple[str, ...] = (*STAGES, WRITE)
"""The three calling stages, then filter and write."""


def run_traces(
    config: TracesConfig, *, steps: Sequence[str] = STEPS, retry_rejected: bool = False, workers: int = 1
) -> dict[str, Any] | None:
    """Run some or all steps. Everything that the ledger holds already is skipped.

    Args:
        config: the run's settings.
        steps: which of `STEPS`; they run in that order.
        retry_rejected: call again where a server refused for good.
        workers: processes that share each stage out by Ray Data; 1 does without Ray.

    Returns:
        The statistics if ``write`` is among the steps, else None.

    Raises:
        ValueError: a wrong setting, a damaged or used ledger, servers that cannot be used, a stage of which no call
            succeeded.
        OSError: the disk is full or failing.
    """
    check_config(config)
    if unknown := sorted(set(steps) - set(STEPS)):
        raise ValueError(f"steps: {', '.join(unknown)} is none of {', '.join(STEPS)}")
    if workers < 1:
        raise ValueError(f"workers: must be 1 or more, is {workers}")
    calling = [stage for stage in STAGES if stage in steps]
    for stage in calling:
        api_key(stage, config.stage(stage))
    if WRITE in steps:
        check_output(Path(config.output), config.shards)
    statistics = None
    # Locked before the shards are read, which takes seconds for a large set: a second run is refused at once.
    with ExitStack() as stack:
        stack.enter_context(FolderLock(config.ledger, "traces"))
        if WRITE in steps:
            # Two runs with ledgers of their own may name one output. The lock is inside it, since the folder above a
            # mounted output may be read-only, and has a name of its own, since the output may be the ledger's folder.
            stack.enter_context(FolderLock(config.output, "traces", name=f".output{LOCK_NAME}"))
        planner = Planner(config, ShardSet(config.shards, split=config.split))
        if workers > 1 and calling:
            from avrt.traces.distributed import ray_session

            stack.enter_context(ray_session())
        for stage in calling:
            _run_one(stage, planner, retry_rejected, workers)
        if WRITE in steps:
            statistics = finalise(planner, explain=[stage for stage in STAGES if stage not in calling])
    return statistics


def _run_one(stage: Stage, planner: Planner, retry_rejected: bool, workers: int) -> None:
    report = _calls(stage, planner, retry_rejected, workers)
    if report.failed:
        raise StageError(f"{stage}: none of {report.counts.total()} calls succeeded: {report.explain()}")
    if reasons := report.explain():
        log.warning("%s: %s", stage, reasons)


def _calls(stage: Stage, planner: Planner, retry_rejected: bool, workers: int) -> StageReport:
    if workers == 1:
        return run_stage(stage, planner, retry_rejected=retry_rejected)
    from avrt.traces.distributed import run_stage_distributed

    return run_stage_distributed(stage, planner.config, workers, retry_rejected=retry_rejected)
