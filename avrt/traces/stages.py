"""Running one calling stage: every planned call that is not done yet, many at a time, each recorded before the next."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from avrt.traces.client import ServerPool, StageError
from avrt.traces.config import Stage, StageConfig, TracesConfig, api_key
from avrt.traces.ledger import LedgerIndex, LedgerWriter
from avrt.traces.messages import build_content, build_file_content
from avrt.traces.planning import PlannedCall, Planner
from avrt.traces.progress import StageProgress
from avrt.traces.records import CallRecord, Status

ENOUGH_TO_JUDGE = 100
"""Calls after which the share of failures can stop a stage."""

FAILURES = (Status.REJECTED, Status.GAVE_UP)


def run_stage(
    stage: Stage,
    planner: Planner,
    *,
    retry_rejected: bool = False,
    writer_name: str = "calls",
    mine: Callable[[PlannedCall], bool] = lambda call: True,
) -> Counter[Status]:
    """Make all calls of one stage that the ledger does not hold yet.

    Args:
        stage: ``vision``, ``audio`` or ``merge``.
        planner: config and shards.
        retry_rejected: also make calls again that a server refused for good, say after raising its context length.
        writer_name: the ledger file to append to.
        mine: which calls are this process's, where several share the stage.

    Returns:
        This run's calls by how they ended.

    Raises:
        StageError: the stage cannot go on. What is recorded stays; the same command goes on from there.
        LedgerError: the ledger is damaged, or in use.
        OSError: the disk is full or failing.
    """
    config = planner.config
    ledger = LedgerIndex(config.ledger)
    total = 0
    waiting: list[tuple[int, str]] = []
    for call in planner.calls(stage, ledger):
        if not mine(call):
            continue
        total += 1
        status = ledger.status(call.key)
        if status is None or not status.is_final or (retry_rejected and status is Status.REJECTED):
            waiting.append((call.index, call.key))
    with StageProgress(stage, total, total - len(waiting)) as progress:
        if waiting:
            todo = _planned_again(stage, planner, ledger, waiting)
            asyncio.run(_make_calls(stage, planner, todo, progress, writer_name))
    return progress.counts


def _planned_again(
    stage: Stage, planner: Planner, ledger: LedgerIndex, waiting: list[tuple[int, str]]
) -> Iterator[PlannedCall]:
    """The calls with their prompts, made when their turn comes: fifty thousand prompts need not lie in memory."""
    for index, _ in waiting:
        if stage == "merge":
            call = planner.merge_call(index, *planner.teacher_replies(index, ledger))
        else:
            call = planner.teacher_call(stage, index)
        assert call is not None
        yield call


async def _make_calls(
    stage: Stage, planner: Planner, todo: Iterator[PlannedCall], progress: StageProgress, writer_name: str
) -> None:
    config = planner.config
    stage_config = config.stage(stage)
    model = planner.models[stage]
    # The ledger first: a second run must be refused before it bothers a server.
    async with (
        LedgerWriter(config.ledger, writer_name) as writer,
        ServerPool(stage, stage_config, model, api_key(stage, stage_config)) as pool,
    ):
        await pool.check()

        async def work() -> None:
            for call in todo:
                outcome = await pool.call(await _content(stage, stage_config, planner, call))
                await writer.append(
                    CallRecord(
                        key=call.key,
                        stage=stage,
                        sample=call.sample.id,
                        status=outcome.status,
                        text=outcome.text,
                        reasoning=outcome.reasoning,
                        finish_reason=outcome.finish_reason,
                        usage=outcome.usage,
                        latency=outcome.latency,
                        attempts=outcome.attempts,
                        model=model.name,
                        revision=model.revision,
                        error=outcome.error,
                    )
                )
                progress.finished(outcome.status)
                _stop_if_failing(stage, config, progress.counts, outcome.error)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(pool.capacity):
                    group.create_task(work())
        except ExceptionGroup as errors:
            # The first one says it all: the others were cancelled, or met the same full disk or dead server.
            raise _first(errors) from None


async def _content(stage: Stage, config: StageConfig, planner: Planner, call: PlannedCall) -> list[dict[str, Any]]:
    if not call.media:
        return build_content(stage, None, call.prompt)

    def read_and_build() -> list[dict[str, Any]]:
        clip = planner.shards.media(call.index)
        if config.transport == "file":
            assert config.media_dir is not None
            return build_file_content(stage, clip, call.prompt, Path(config.media_dir), call.sample.id, call.media)
        return build_content(stage, clip, call.prompt)

    # In a thread: reading a clip and spelling it in base64 takes milliseconds.
    return await asyncio.to_thread(read_and_build)


def _stop_if_failing(stage: Stage, config: TracesConfig, counts: Counter[Status], last_error: str) -> None:
    finished = sum(counts.values())
    failed = sum(counts[status] for status in FAILURES)
    if finished >= ENOUGH_TO_JUDGE and failed > config.max_failed_share * finished:
        raise StageError(
            f"{stage}: {failed} of {finished} calls failed, more than max_failed_share allows "
            f"({config.max_failed_share:g}); the last one: {last_error or 'no reason given'}"
        )


def _first(errors: ExceptionGroup[Exception]) -> Exception:
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first
