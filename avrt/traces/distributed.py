"""Sharing a stage between processes and machines with Ray Data (the optional extra ``ray``).

Every call belongs to one worker, by its key, and each worker appends to its own ledger file. A worker that dies and is
started again reads all files first, so nothing is done twice. All workers must see the folders of the config under the
same paths.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from avrt.data.shards import ShardSet
from avrt.servers.call_report import CallReport
from avrt.traces.call_planner import CallPlanner, PlannedCall
from avrt.traces.config import TracesConfig
from avrt.traces.stages import run_stage


@contextmanager
def ray_session() -> Iterator[None]:
    """Ray for the length of a block: the cluster that the process is already connected to, or one on this machine.

    Raises:
        ValueError: Ray is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ValueError("--workers: more than one needs Ray; install the extra: pip install 'avrt[ray]'") from error
    started_here = not ray.is_initialized()
    if started_here:
        ray.init(log_to_driver=False, include_dashboard=False)
    try:
        yield
    finally:
        if started_here:
            ray.shutdown()


def run_stage_distributed(
    stage: str, config: TracesConfig, workers: int, *, retry_rejected: bool = False
) -> CallReport:
    """Run one stage with `workers` Ray tasks, inside a `ray_session`.

    Each worker has `max_concurrency` calls in flight at each address, so the servers see `workers` times as many.

    Raises:
        ValueError: a worker failed; with the message of the error that `run_stage` raised.
    """
    import ray

    shares = [
        {"worker": number, "workers": workers, "stage": stage, "retry_rejected": retry_rejected}
        for number in range(workers)
    ]

    def run_share(share: dict[str, Any]) -> dict[str, Any]:
        return _run_share(config, share)

    # One block per share, so that each is a separate task and a lost machine costs only its share. The tasks wait for
    # servers nearly all the time, so they do not need a core each.
    dataset = ray.data.from_items(shares, override_num_blocks=workers)
    pool = ray.data.TaskPoolStrategy(size=workers)
    try:
        rows = dataset.map(run_share, compute=pool, num_cpus=0.1).take_all()
    except ray.exceptions.RayTaskError as error:
        raise ValueError(f"{stage}: {error.cause}") from error
    total = CallReport()
    for row in rows:
        total.add(CallReport.from_json(row["report"]))
    return total


def _run_share(config: TracesConfig, share: dict[str, Any]) -> dict[str, Any]:
    """One worker's part of a stage; runs in a Ray task."""
    stage, number, workers = share["stage"], int(share["worker"]), int(share["workers"])

    def is_mine(call: PlannedCall) -> bool:
        return int(call.key[:16], 16) % workers == number

    report = run_stage(
        stage,
        CallPlanner(config, ShardSet(config.shards, split=config.split)),
        retry_rejected=bool(share["retry_rejected"]),
        writer_name=f"{stage}-{number:03d}",
        is_mine=is_mine,
    )
    # One text: Arrow requires the same columns in every row.
    return {"worker": number, "report": report.to_json()}
