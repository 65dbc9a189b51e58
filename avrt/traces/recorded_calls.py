"""Calls that a ledger does not have yet, made many at a time, each recorded before the next."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from avrt.servers.call_report import CallReport, check_failed_share
from avrt.servers.calls import make_calls
from avrt.servers.client import ServerClient
from avrt.servers.config import Model, ServerConfig, under_key
from avrt.servers.content import Content
from avrt.servers.outcome import Outcome, Status
from avrt.servers.progress import CallProgress
from avrt.servers.protocols import CHAT, CallProtocol
from avrt.traces.call_records import CallRecord
from avrt.traces.ledger import LedgerIndex, LedgerWriter

RETRY_REJECTED = "fix the cause and call again with --retry-rejected"

PREPARED_AHEAD = 16
"""Prepared calls that wait for the next free places, with their media: some megabytes each for real clips."""
PREPARING_THREADS = 2
"""More would only compete with the calls in flight."""
PREPARED_IN_A_ROW = 4


@dataclass(frozen=True)
class PreparedCall:
    """A call that can be sent.

    Attributes:
        key: see `avrt.traces.call_records.call_key`.
        sample_id: the question, for readers of the ledger.
        content: the message.
        sampling: parameters of this call; None for the model's.
        system: a system message before it; empty for none.
    """

    key: str
    sample_id: str
    content: Content
    sampling: Mapping[str, Any] | None = None
    system: str = ""


@dataclass(frozen=True)
class CallGroup:
    """Calls of one kind to the same servers.

    Attributes:
        stage: name of the kind in the ledger, in the progress line and in errors about calls.
        settings: key of `config` in the run's settings, with which errors about settings begin.
        config, model: the servers.
        ledger: folder of the ledger.
        max_failed_share: stop when more than this share of the calls fail.
        protocol: how the servers are asked.
    """

    stage: str
    settings: str
    config: ServerConfig
    model: Model
    ledger: str
    max_failed_share: float
    protocol: CallProtocol = CHAT


def make_missing_calls(
    group: CallGroup,
    planned: Callable[[LedgerIndex], Iterator[tuple[int, str]]],
    prepare: Callable[[int, LedgerIndex], PreparedCall],
    *,
    retry_rejected: bool = False,
    writer_name: str = "calls",
) -> CallReport:
    """Make all calls of a group that the ledger does not have yet.

    Args:
        group: kind and servers.
        planned: number and key of every call, done or not; read in a thread of its own.
        prepare: a call by its number, when its turn comes; called in threads.
        retry_rejected: also repeat calls that a server refused permanently or interrupted, say after a change of its
            context length or content filter.
        writer_name: the ledger file to append to.

    Returns:
        How the calls ended, those of this run and of earlier ones.

    Raises:
        ServerError: the calls cannot continue. Recorded calls stay; the same command continues from there.
        LedgerError: the ledger is damaged, or in use.
        OSError: the disk is full or failing.
    """
    ledger = LedgerIndex(group.ledger)
    # Two reports, since one thread finds finished calls while another makes calls.
    report, earlier = CallReport(), CallReport()

    def describe() -> str:
        return ", ".join(f"{count} {status.value}" for status, count in sorted(report.made.items()))

    with CallProgress(group.stage, describe) as progress:

        def missing() -> Iterator[int]:
            for number, key in planned(ledger):
                status = ledger.status(key)
                again = retry_rejected and status in (Status.REJECTED, Status.INTERRUPTED)
                done = status is not None and status.is_final and not again
                progress.add_to_total(done=done)
                if not done:
                    yield number
                elif status is Status.OK:
                    earlier.earlier[Status.OK] += 1
                else:
                    earlier.add_earlier(ledger.get(key))

        todo = missing()
        # If nothing is missing, no server is needed.
        if (first := next(todo, None)) is not None:
            numbers = itertools.chain([first], todo)
            job = _Job(group, lambda number: prepare(number, ledger), report, progress, earlier, writer_name)
            asyncio.run(job.run(numbers))
    report.add(earlier)
    return report


@dataclass
class _Job:
    group: CallGroup
    prepare: Callable[[int], PreparedCall]
    report: CallReport
    progress: CallProgress
    earlier: CallReport
    writer_name: str

    async def run(self, missing: Iterator[int]) -> None:
        group = self.group
        with under_key(group.settings):
            key = group.config.read_api_key()

        def prepare(number: int) -> tuple[PreparedCall, Content]:
            call = self.prepare(number)
            return call, call.content

        # The ledger first: a second run must be refused before it calls a server.
        async with (
            LedgerWriter(group.ledger, self.writer_name) as writer,
            ServerClient(group.settings, group.config, group.model, key, protocol=group.protocol) as client,
        ):
            held = HeldRefusals(writer)

            async def finish(call: PreparedCall, outcome: Outcome | None) -> None:
                assert outcome is not None
                await self._finish(call, outcome, held)

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
                await held.release(final=self.earlier.earlier[Status.OK] > 0)

    async def _finish(self, call: PreparedCall, outcome: Outcome, held: HeldRefusals) -> None:
        group, report = self.group, self.report
        report.add_made(outcome)
        self.progress.add_finished()
        await held.append(
            CallRecord(
                **vars(outcome),
                key=call.key,
                stage=group.stage,
                sample=call.sample_id,
                model=group.model.name,
                revision=group.model.revision,
            )
        )
        failed = sum(count for status, count in report.made.items() if status.is_failure)
        check_failed_share(
            group.stage, failed, report.made.total(), group.max_failed_share, lambda: report.explain(RETRY_REJECTED)
        )


class HeldRefusals:
    """Writes records, and holds refusals back until a server has replied to any call of the group.

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
