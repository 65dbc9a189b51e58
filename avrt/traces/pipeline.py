"""A whole trace run: every teacher, the merger, then filter and write."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from avrt.data.shards import ShardSet
from avrt.files.folder_lock import LOCK_NAME, FolderLock
from avrt.servers.call_report import CallReport
from avrt.servers.client import ServerError
from avrt.servers.config import under_key
from avrt.servers.outcome import Status
from avrt.storage.uploads import output_folder
from avrt.traces.call_planner import CallPlanner
from avrt.traces.config import TracesConfig
from avrt.traces.finalize import finalize
from avrt.traces.output import check_output
from avrt.traces.recorded_calls import RETRY_REJECTED
from avrt.traces.stages import run_stage

log = logging.getLogger(__name__)

WRITE = "write"
"""The step after the stages that call servers: filter and write."""


def run_traces(
    config: TracesConfig, *, steps: Sequence[str] | None = None, retry_rejected: bool = False, workers: int = 1
) -> dict[str, Any] | None:
    """Run some or all steps. Calls that the ledger has already are skipped.

    Args:
        config: the run's settings.
        steps: stages of the config, and ``write``; they run in the config's order. None for all.
        retry_rejected: repeat calls that a server refused permanently.
        workers: processes that share each stage through Ray Data; 1 does not need Ray.

    Returns:
        The statistics if ``write`` is among the steps, else None.

    Raises:
        ValueError: a wrong setting, a damaged ledger or one in use, servers that cannot be used, a stage without a
            successful call.
        OSError: the disk is full or failing.
    """
    config.check()
    known = (*config.stages, WRITE)
    steps = known if steps is None else steps
    if unknown := sorted(set(steps) - set(known)):
        raise ValueError(f"stage: {', '.join(unknown)} is none of {', '.join(known)}")
    if workers < 1:
        raise ValueError(f"workers: must be 1 or more, got {workers}")
    calling = [stage for stage in config.stages if stage in steps]
    for stage in calling:
        with under_key(config.key(stage)):
            config.stage(stage).read_api_key()
    out = output_folder(config.output)
    if WRITE in steps:
        check_output(out, config.shards)
    statistics = None
    # Locked before the shards are read, which takes seconds for a large set: a second run is refused immediately.
    with ExitStack() as stack:
        stack.enter_context(FolderLock(config.ledger, "traces"))
        if WRITE in steps:
            # Two runs with different ledgers may have the same output. The lock is inside it, since the folder above a
            # mounted output may be read-only, and has its own name, since the output may be the ledger's folder.
            stack.enter_context(out.lock("traces", name=f".output{LOCK_NAME}"))
            out.check_writable()
        planner = CallPlanner(config, ShardSet(config.shards, split=config.split))
        if workers > 1 and calling:
            from avrt.traces.distributed import ray_session

            stack.enter_context(ray_session())
        for stage in calling:
            _run_one(stage, planner, retry_rejected, workers)
        if WRITE in steps:
            statistics = finalize(planner, explain=[stage for stage in config.stages if stage not in calling])
    return statistics


def _run_one(stage: str, planner: CallPlanner, retry_rejected: bool, workers: int) -> None:
    report = _calls(stage, planner, retry_rejected, workers)
    counts, reasons = report.counts, report.explain(RETRY_REJECTED)
    if counts.total() and not counts[Status.OK]:
        raise ServerError(f"{stage}: none of {counts.total()} calls succeeded: {reasons}")
    if reasons:
        log.warning("%s: %s", stage, reasons)


def _calls(stage: str, planner: CallPlanner, retry_rejected: bool, workers: int) -> CallReport:
    if workers == 1:
        return run_stage(stage, planner, retry_rejected=retry_rejected)
    from avrt.traces.distributed import run_stage_distributed

    return run_stage_distributed(stage, planner.config, workers, retry_rejected=retry_rejected)
