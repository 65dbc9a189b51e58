"""Running one calling stage: every planned call that is not done yet, many at a time, each recorded before the next."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from avrt.servers.client import ServerPool, StageError
from avrt.servers.config import Stage, StageConfig, api_key
from avrt.servers.status import Status
from avrt.traces.backlog import Backlog, open_backlog
from avrt.traces.config import TracesConfig
from avrt.traces.ledger import LedgerIndex, LedgerWriter
from avrt.traces.messages import build_content, build_file_content
from avrt.traces.planning import PlannedCall, Planner
from avrt.traces.progress import StageProgress
from avrt.traces.records import CallRecord
from avrt.traces.stage_report import StageReport

ENOUGH_TO_JUDGE = 100
"""Calls after which the share of failures can stop a stage."""

FAILURES = (Status.REJECTED, Status.GAVE_UP)

PREPARED_AHEAD = 16
"""Calls that lie ready for the next free places, with their media: some megabytes each for real clips."""


def run_stage(
    stage: Stage,
    planner: Planner,
    *,
    retry_rejected: bool = False,
    writer_name: str = "calls",
    mine: Callable[[PlannedCall], bool] = lambda call: True,
) -> StageReport:
    """Make all calls of one stage that the ledger does not hold yet.

    Args:
        stage: ``vision``, ``audio`` or ``merge``.
        planner: config and shards.
        retry_rejected: also make calls again that a server refused for good, say after raising its context length.
        writer_name: the ledger file to append to.
        mine: which calls are this process's, where several share the stage.

    Returns:
        How the stage's calls ended, of this run and of earlier ones.

    Raises:
        StageError: the stage cannot go on. What is recorded stays; the same command goes on from there.
        LedgerError: the ledger is damaged, or in use.
        OSError: the disk is full or failing.
    """
    ledger = LedgerIndex(planner.config.ledger)
    # Two, since one thread finds out what is done while another makes calls.
    report, earlier = StageReport(), StageReport()
    with StageProgress(stage, report) as progress:

        def missing() -> Iterator[int]:
            for call in planner.calls(stage, ledger):
                if mine(call):
                    status = ledger.status(call.key)
                    again = retry_rejected and status is Status.REJECTED
                    done = status is not None and status.is_final and not again
                    progress.found(done=done)
                    if not done:
                        yield call.index
                    elif status is Status.OK:
                        earlier.earlier[Status.OK] += 1
                    else:
                        earlier.add_earlier(ledger.get(call.key))

        todo = missing()
        # Where nothing is missing, no server is needed.
        if (first := next(todo, None)) is not None:
            calls = itertools.chain([first], todo)
            asyncio.run(_make_calls(stage, planner, ledger, calls, progress, earlier, writer_name))
    report.add(earlier)
    return report


class _Verdicts:
    """Writes records, and holds refusals back until a server has replied to any call of the stage.

    Before that a refusal may be the answer to every call: a wrong parameter, a wrong kind of server. It is recorded as
    ``rejected``, which no later run asks again by itself, only once it is known that others are answered.
    """

    def __init__(self, writer: LedgerWriter, progress: StageProgress) -> None:
        self._writer = writer
        self._progress = progress
        self._held: list[CallRecord] = []
        self._answered = False

    async def append(self, record: CallRecord) -> None:
        """Record a call, now or later."""
        self._progress.finished(record.status, record.error)
        if record.status is Status.REJECTED and not self._answered:
            self._held.append(record)
            return
        await self._writer.append(record)
        if record.status not in FAILURES and not self._answered:
            self._answered = True
            await self.release(final=True)

    async def release(self, *, final: bool) -> None:
        """Write what is held, as ``rejected``, or as ``gave_up``, so that the next run calls again."""
        held, self._held = self._held, []
        for record in held:
            await self._writer.append(record if final else replace(record, status=Status.GAVE_UP))


@dataclass(frozen=True)
class _Prepared:
    """A call with all that is sent."""

    call: PlannedCall
    content: list[dict[str, Any]]


async def _make_calls(
    stage: Stage,
    planner: Planner,
    ledger: LedgerIndex,
    missing: Iterator[int],
    progress: StageProgress,
    earlier: StageReport,
    writer_name: str,
) -> None:
    config = planner.config
    stage_config = config.stage(stage)
    model = planner.models[stage]

    def prepare(index: int) -> _Prepared:
        """Plan a call anew when its turn comes: fifty thousand prompts need not lie in memory."""
        call = planner.call(stage, index, ledger)
        assert call is not None
        return _Prepared(call, _content(stage, stage_config, planner, call))

    async def work(verdicts: _Verdicts, pool: ServerPool, backlog: Backlog[_Prepared]) -> None:
        async for prepared in backlog:
            call = prepared.call
            outcome = await pool.call(prepared.content)
            await verdicts.append(
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
            _stop_if_failing(stage, config, progress.report)

    # The ledger first: a second run must be refused before it bothers a server.
    async with (
        LedgerWriter(config.ledger, writer_name) as writer,
        ServerPool(stage, stage_config, model, api_key(stage, stage_config)) as pool,
    ):
        verdicts = _Verdicts(writer, progress)
        try:
            async with open_backlog(missing, prepare, ahead=PREPARED_AHEAD) as backlog:
                await pool.check()
                async with asyncio.TaskGroup() as group:
                    for _ in range(pool.capacity):
                        group.create_task(work(verdicts, pool, backlog))
        except ExceptionGroup as errors:
            # The first one says it all: the others were cancelled, or met the same full disk or dead server.
            raise _first(errors) from None
        finally:
            await verdicts.release(final=earlier.earlier[Status.OK] > 0)


def _content(stage: Stage, config: StageConfig, planner: Planner, call: PlannedCall) -> list[dict[str, Any]]:
    if not call.media:
        return build_content(stage, None, call.prompt)
    clip = planner.shards.media(call.index)
    if config.transport == "file":
        assert config.media_dir is not None
        return build_file_content(stage, clip, call.prompt, Path(config.media_dir), call.sample.id, call.media)
    return build_content(stage, clip, call.prompt)


def _stop_if_failing(stage: Stage, config: TracesConfig, report: StageReport) -> None:
    finished = report.made.total()
    failed = sum(report.made[status] for status in FAILURES)
    if finished >= ENOUGH_TO_JUDGE and failed > config.max_failed_share * finished:
        raise StageError(
            f"{stage}: {failed} of {finished} calls failed, more than max_failed_share allows "
            f"({config.max_failed_share:g}): {report.explain()}"
        )


def _first(errors: ExceptionGroup[Exception]) -> Exception:
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first
