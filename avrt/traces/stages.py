"""Running one stage: every planned call that is not done yet, many at a time, each recorded before the next."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from avrt.servers.call_report import CallReport, check_failed_share
from avrt.servers.calls import make_calls
from avrt.servers.client import ServerClient
from avrt.servers.config import under_key
from avrt.servers.content import Content, text_part
from avrt.servers.outcome import Outcome, Status
from avrt.servers.progress import CallProgress
from avrt.servers.protocols import CHAT, TRANSCRIPTION
from avrt.traces.call_planner import CallPlanner, PlannedCall
from avrt.traces.call_records import CallRecord
from avrt.traces.config import StageConfig, TeacherConfig
from avrt.traces.ledger import LedgerIndex, LedgerWriter
from avrt.traces.stage_content import build_content, build_file_content

RETRY_REJECTED = "fix the cause and call again with --retry-rejected"

PREPARED_AHEAD = 16
"""Prepared calls that wait for the next free places, with their media: some megabytes each for real clips."""
PREPARING_THREADS = 2
"""More would only compete with the calls in flight."""
PREPARED_IN_A_ROW = 4


def run_stage(
    stage: str,
    planner: CallPlanner,
    *,
    retry_rejected: bool = False,
    writer_name: str = "calls",
    is_mine: Callable[[PlannedCall], bool] = lambda call: True,
) -> CallReport:
    """Make all calls of one stage that the ledger does not have yet.

    Args:
        stage: a teacher's name, or ``merge``.
        planner: config and shards.
        retry_rejected: also repeat calls that a server refused permanently, say after raising its context length.
        writer_name: the ledger file to append to.
        is_mine: whether a call belongs to this process, where several share the stage.

    Returns:
        How the stage's calls ended, those of this run and of earlier ones.

    Raises:
        ServerError: the stage cannot continue. Recorded calls stay; the same command continues from there.
        LedgerError: the ledger is damaged, or in use.
        OSError: the disk is full or failing.
    """
    ledger = LedgerIndex(planner.config.ledger)
    repeats = planner.repeats(stage)
    # Two reports, since one thread finds finished calls while another makes calls.
    report, earlier = CallReport(), CallReport()

    def describe() -> str:
        return ", ".join(f"{count} {status.value}" for status, count in sorted(report.made.items()))

    with CallProgress(stage, describe) as progress:

        def missing() -> Iterator[int]:
            for call in planner.calls(stage, ledger):
                if is_mine(call):
                    status = ledger.status(call.key)
                    again = retry_rejected and status is Status.REJECTED
                    done = status is not None and status.is_final and not again
                    progress.add_to_total(done=done)
                    if not done:
                        yield call.index * repeats + call.repeat
                    elif status is Status.OK:
                        earlier.earlier[Status.OK] += 1
                    else:
                        earlier.add_earlier(ledger.get(call.key))

        todo = missing()
        # If nothing is missing, no server is needed.
        if (first := next(todo, None)) is not None:
            calls = itertools.chain([first], todo)
            asyncio.run(_make_calls(stage, planner, ledger, calls, report, progress, earlier, writer_name))
    report.add(earlier)
    return report


async def _make_calls(
    stage: str,
    planner: CallPlanner,
    ledger: LedgerIndex,
    missing: Iterator[int],
    report: CallReport,
    progress: CallProgress,
    earlier: CallReport,
    writer_name: str,
) -> None:
    config = planner.config
    stage_config = config.stage(stage)
    model = planner.models[stage]
    protocol = TRANSCRIPTION if stage_config.is_transcriber else CHAT
    with under_key(config.key(stage)):
        key = stage_config.read_api_key()

    def prepare(number: int) -> tuple[PlannedCall, Content]:
        """Plan a call again when its turn comes: fifty thousand prompts need not be in memory."""
        call = planner.call(stage, *divmod(number, planner.repeats(stage)), ledger)
        assert call is not None
        return call, _content(stage_config, planner, call)

    # The ledger first: a second run must be refused before it calls a server.
    async with (
        LedgerWriter(config.ledger, writer_name) as writer,
        ServerClient(config.key(stage), stage_config, model, key, protocol=protocol) as client,
    ):
        held = _HeldRefusals(writer)

        async def finish(call: PlannedCall, outcome: Outcome | None) -> None:
            assert outcome is not None
            report.add_made(outcome)
            progress.add_finished()
            await held.append(
                CallRecord(
                    **vars(outcome),
                    key=call.key,
                    stage=stage,
                    sample=call.sample.id,
                    model=model.name,
                    revision=model.revision,
                )
            )
            failed = sum(count for status, count in report.made.items() if status.is_failure)
            check_failed_share(
                stage, failed, report.made.total(), config.max_failed_share, lambda: report.explain(RETRY_REJECTED)
            )

        try:
            await make_calls(
                client,
                missing,
                prepare,
                finish,
                send=lambda call, content: client.call(content, call.sampling, call.system),
                ahead=PREPARED_AHEAD,
                threads=PREPARING_THREADS,
                batch=PREPARED_IN_A_ROW,
            )
        finally:
            await held.release(final=earlier.earlier[Status.OK] > 0)


class _HeldRefusals:
    """Writes records, and holds refusals back until a server has replied to any call of the stage.

    Before that, a refusal may be the answer to every call: a wrong parameter, a wrong kind of server. It is recorded as
    ``rejected``, which later runs do not repeat by themselves, only once other calls are known to be answered.
    """

    def __init__(self, writer: LedgerWriter) -> None:
        self._writer = writer
        self._held: list[CallRecord] = []
        self._answered = False

    async def append(self, record: CallRecord) -> None:
        """Record a call, now or later."""
        if record.status is Status.REJECTED and not self._answered:
            self._held.append(record)
            return
        await self._writer.append(record)
        if not record.status.is_failure and not self._answered:
            self._answered = True
            await self.release(final=True)

    async def release(self, *, final: bool) -> None:
        """Write the held records as ``rejected``, or as ``gave_up``, so that the next run calls again."""
        held, self._held = self._held, []
        for record in held:
            await self._writer.append(record if final else replace(record, status=Status.GAVE_UP))


def _content(config: StageConfig, planner: CallPlanner, call: PlannedCall) -> Content:
    if not call.media:
        return [text_part(call.prompt)]
    assert isinstance(config, TeacherConfig)
    clip = planner.shards.media(call.index)
    if config.transport == "file":
        assert config.media_dir is not None
        folder = Path(config.media_dir)
        return build_file_content(config.streams, clip, call.prompt, folder, call.sample.id, call.media)
    return build_content(config.streams, clip, call.prompt, as_video=config.student_template is not None)
