"""Asking the judge: the missing calls of one kind of question, and again where a reply cannot be read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

from avrt.judging.config import ReaderConfig
from avrt.judging.schema import BadVerdictError, Schema
from avrt.servers.call_report import CallReport, ErrorCounts
from avrt.servers.client import ServerError
from avrt.servers.config import Model
from avrt.servers.outcome import Status
from avrt.traces.call_records import CallRecord
from avrt.traces.ledger import LedgerIndex
from avrt.traces.recorded_calls import RETRY_REJECTED, CallGroup, PreparedCall, make_missing_calls

log = logging.getLogger(__name__)

FORMAT = "response_format"
"""The parameter of a call that holds the JSON schema."""


@dataclass(frozen=True)
class PlannedCall:
    """One call.

    Attributes:
        key: see `avrt.traces.call_records.call_key`.
        prompt: all text of the call.
        media: identifies the media that are sent; empty for text only.
    """

    key: str
    prompt: str
    media: str


@dataclass(frozen=True)
class Answer:
    """The state of one question in the ledger.

    Attributes:
        call: the call that decides: the first one without a valid verdict that may still get one, or the last one.
        record: its record, or None.
        verdict: the checked verdict, or None.
        bad_replies: replies that are not valid verdicts.
        error: why there is no verdict.
    """

    call: PlannedCall
    record: CallRecord | None
    verdict: dict[str, Any] | None
    bad_replies: int
    error: str

    @property
    def is_open(self) -> bool:
        """Whether the next run makes the call."""
        return self.record is None or self.record.status is Status.GAVE_UP


class Planner(Protocol):
    """Questions by kind (``mode``), and the state of each in the ledger."""

    @property
    def judge(self) -> ReaderConfig:
        """The servers."""

    def count(self, mode: Any) -> int:
        """Number of questions of a kind."""

    def group(self, mode: Any) -> CallGroup:
        """The calls of a kind as the ledger knows them."""

    def planned(self, mode: Any, ledger: LedgerIndex) -> Iterator[tuple[int, str]]:
        """Number and key of the deciding call of every question that can be asked now; done or not."""

    def prepare(self, mode: Any, number: int, ledger: LedgerIndex) -> PreparedCall:
        """The deciding call of a question."""

    def answer(self, mode: Any, number: int, ledger: LedgerIndex) -> Answer | None:
        """The state of a question; None for one that cannot be asked yet."""


def in_form(model: Model, name: str, schema: Schema) -> Model:
    """The model with a schema as ``response_format`` of its calls, unless its sampling has a form of its own."""
    if FORMAT in model.sampling:
        return model
    form = {"type": "json_schema", "json_schema": {"name": name, "strict": True, "schema": schema.json_schema()}}
    return replace(model, sampling={**model.sampling, FORMAT: form})


def decide(prompt: str, limit: int, call: Callable[[str], PlannedCall], schema: Schema, ledger: LedgerIndex) -> Answer:
    """The state of one question in the ledger, over the repeated calls after replies that are not verdicts.

    Args:
        prompt: the first call's text.
        limit: calls for one question.
        call: the call with a text.
        schema: form of the reply.
    """
    error = ""
    for attempt in range(limit):
        planned = call(_repeated(prompt, attempt, error))
        record = ledger.get(planned.key)
        if record is None or record.status is not Status.OK:
            return Answer(planned, record, None, attempt, error if record is None else record.error)
        try:
            return Answer(planned, record, schema.read(record.text), attempt, "")
        except BadVerdictError as bad:
            error = str(bad)
    return Answer(planned, record, None, limit, error)


def _repeated(prompt: str, attempt: int, error: str) -> str:
    """The prompt of the call after `attempt` bad replies: at its end, what was wrong with the last one.

    The number is part of it, so that the calls differ: a server that samples greedily would repeat its reply.
    """
    if attempt == 0:
        return prompt
    return f"{prompt}\n\nReply number {attempt} could not be read: {error}. Reply with a valid JSON object."


def ask(mode: str, planner: Planner, *, retry_rejected: bool, may_all_fail: bool = False) -> None:
    """Make the calls of a kind: first those of all questions, then again those whose replies are not verdicts.

    Args:
        mode: kind of question.
        planner: the questions.
        retry_rejected: repeat calls that a server refused permanently.
        may_all_fail: no error if no reply is a valid verdict.

    Raises:
        ValueError: the servers cannot be used, no call succeeded, no reply is a verdict.
    """
    for attempt in range(planner.judge.max_replies):
        make_missing_calls(
            planner.group(mode),
            lambda ledger: planner.planned(mode, ledger),
            lambda number, ledger: planner.prepare(mode, number, ledger),
            retry_rejected=retry_rejected and attempt == 0,
        )
        ledger = LedgerIndex(planner.group(mode).ledger)
        if all(ledger.status(key) is not None for _, key in planner.planned(mode, ledger)):
            break
    report = CallReport()
    errors, bad_json = ErrorCounts(), 0
    for number in range(planner.count(mode)):
        answer = planner.answer(mode, number, ledger)
        if answer is not None and answer.record is not None:
            report.add_earlier(answer.record)
            if answer.record.status is Status.OK and answer.verdict is None:
                errors.add(answer.error)
                bad_json += 1
    reasons = report.explain(RETRY_REJECTED)
    if report.counts.total() and not report.counts[Status.OK]:
        refused = any(f"HTTP {status}" in reasons for status in (400, 422))
        hint = " (if the server takes no JSON schema, set judge.json_schema to false)"
        hint = hint if refused and planner.judge.json_schema else ""
        raise ServerError(f"{mode}: none of {report.counts.total()} calls succeeded: {reasons}{hint}")
    if reasons:
        log.warning("%s: %s", mode, reasons)
    if bad_json and bad_json == report.counts[Status.OK] and not may_all_fail:
        raise ServerError(f"{mode}: none of {bad_json} replies is a valid verdict: {errors}")
    if bad_json:
        log.warning(
            "%s: %d of %d judgments have no valid verdict after %d replies (%s)",
            *(mode, bad_json, report.counts.total(), planner.judge.max_replies, errors),
        )
