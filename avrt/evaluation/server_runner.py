"""Evaluating a model behind OpenAI-compatible servers: many calls at a time, each recorded immediately."""

from __future__ import annotations

import asyncio
import logging
import math
import os
from contextlib import ExitStack
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

from avrt.evaluation.benchmarks import BENCHMARKS, Item, new_record
from avrt.evaluation.question_sets import QuestionSet, open_question_sets
from avrt.evaluation.records.log import RecordWriter
from avrt.evaluation.records.record import Record
from avrt.evaluation.repeats import REPEATS, first_replies
from avrt.evaluation.run_lifecycle import REPLY_INTERRUPTED, begin_run, finish_run, report_missing
from avrt.evaluation.running_scores import RunningScores
from avrt.evaluation.scoring import BenchmarkRun, grade_record
from avrt.evaluation.sent_prompts import prompt_settings
from avrt.evaluation.server_config import SERVER, ServerRunConfig
from avrt.evaluation.server_request import Request, build_request
from avrt.evaluation.terminal_tables import score_console
from avrt.servers.call_report import CallReport, check_failed_share
from avrt.servers.calls import make_calls
from avrt.servers.client import ServerClient, ServerError
from avrt.servers.config import Model, under_key
from avrt.servers.content import Content
from avrt.servers.outcome import Outcome, Status
from avrt.servers.progress import CallProgress

log = logging.getLogger(__name__)

SERVER_ERROR = "server_error"
"""`Record.failure`: every attempt failed."""
SERVER_REFUSED = "server_refused"
"""`Record.failure`: the server refuses this request permanently (too long, media that it cannot read)."""
_FAILURES = {
    Status.REJECTED: SERVER_REFUSED,
    Status.GAVE_UP: SERVER_ERROR,
    Status.INTERRUPTED: REPLY_INTERRUPTED,
}

CALL_AGAIN = "the same command calls again"

PREPARED_AHEAD = 16
"""Prepared requests that wait for the next free places, with their media."""


Question = tuple[QuestionSet, Item, int]
"""A question to ask: its set, its item, and the number of the reply."""


class _Tally:
    """Counts of a running evaluation: calls, scores, and items without a reply.

    Attributes:
        report: the calls of this run.
        finished, failed: items of this run, and those of them without a reply.
    """

    def __init__(self) -> None:
        self.report = CallReport()
        self.finished = self.failed = 0
        self.scores = RunningScores()

    def describe(self) -> str:
        """For the progress bar."""
        right = self.scores.accuracy_here()
        share = f"{right:.1%} right, " if math.isfinite(right) else ""  # NaN before the first reply
        return f"{share}{self.failed} without a reply"


def run_server_evaluation(config: ServerRunConfig) -> list[BenchmarkRun]:
    """Answer all questions that have no reply yet, then score.

    Returns:
        The benchmarks, scored.

    Raises:
        ValueError: wrong settings, a folder of another run, servers that do not answer, or no reply at all. Recorded
            replies stay; the same command continues from there.
        OSError: the disk is full or failing.
    """
    run = Path(config.output_dir)
    question_sets = open_question_sets(config.questions)
    config.media.check_names([*BENCHMARKS, *(questions.name for questions in question_sets)])
    with under_key(SERVER):
        model = config.server.resolve_model()
    tally = _Tally()
    work: list[Question] = []
    answered = 0
    progress = CallProgress("questions", tally.describe)
    with ExitStack() as stack:
        writers = {}
        for questions in question_sets:
            info = questions.run_info(
                run=config.name or run.resolve().name,
                model=model.name,
                answer_format=config.answer_format,
                profile=config.profile,
                media=config.media,
                decoding=_decoding(config, model),
                prompt=prompt_settings(
                    config.template, config.answer_format, system=config.asks_student, suffix=model.suffix
                ),
                weights=model.revision,
            )
            begun = begin_run(run, questions, info)
            report_missing(questions, begun, score_console())
            writers[questions.name] = stack.enter_context(RecordWriter(run / questions.name))
            answered += len(begun.answered)
            for item in questions.items:
                for variant in begun.variants:
                    done = bool(item.missing) or (item.sample.id, variant) in begun.replies
                    progress.add_to_total(done=done)
                    if not done:
                        work.append((questions, item, variant[0]))
            tally.scores.add(grade_record(record, config.profile) for record in begun.answered + begun.missing)
        stack.enter_context(progress)
        if work:
            asyncio.run(_make_calls(config, model, work, writers, tally, progress))
    report = tally.report
    reasons = report.explain(CALL_AGAIN)
    if report.made.total() and not report.made[Status.OK] + report.made[Status.LENGTH] and not answered:
        raise ServerError(f"{SERVER}: none of {report.made.total()} calls succeeded: {reasons}")
    if reasons:
        log.warning("%s: %s", SERVER, reasons)
    return finish_run(run, question_sets, score_console(), config.harness)


def _decoding(config: ServerRunConfig, model: Model) -> dict[str, Any]:
    frames = {"frames": "video, png"} if config.asks_student else {"jpeg_quality": config.jpeg_quality}
    settings = {**model.sampling, "inputs": config.streams, **frames}
    # Absent where not used, so that runs of earlier versions can be resumed.
    return settings | ({REPEATS: config.repeats} if config.repeats > 1 else {})


async def _make_calls(
    config: ServerRunConfig,
    model: Model,
    work: list[Question],
    writers: dict[str, RecordWriter],
    tally: _Tally,
    progress: CallProgress,
) -> None:
    Job = tuple[Question, Record | Request]
    shown = {(questions.name, item.index): (questions, item) for questions, item, _ in work}
    # Replies to one item are asked for at the same time; its clip is decoded for the first of them, and the others wait
    # (`lru_cache` alone would decode in every thread that comes before the first has finished).
    request_of = lru_cache(maxsize=PREPARED_AHEAD)(lambda place: build_request(*shown[place], config, model))
    waiting = [Lock() for _ in range(4 * PREPARED_AHEAD)]

    def prepare(number: int) -> tuple[Job, Content | None]:
        questions, item, _ = work[number]
        with waiting[item.index % len(waiting)]:
            asked = request_of((questions.name, item.index))
        return (work[number], asked), None if isinstance(asked, Record) else asked.content

    async def send(job: Job, content: Content) -> Outcome:
        _, request = job
        assert isinstance(request, Request)
        return await client.call(content, request.sampling, request.system)

    async def finish(job: Job, outcome: Outcome | None) -> None:
        (questions, item, repeat), asked = job
        if isinstance(asked, Record):
            record = asked
        else:
            assert outcome is not None
            tally.report.add_made(outcome)
            record = reply_record(questions, item, outcome)
        record = replace(record, repeat=repeat)
        await asyncio.to_thread(writers[questions.name].append, record)
        tally.scores.add(grade_record(reply, config.profile) for reply in first_replies([record]))
        tally.finished += 1
        tally.failed += record.failure is not None
        progress.add_finished()
        check_failed_share(
            SERVER,
            tally.failed,
            tally.finished,
            config.max_failed_share,
            lambda: tally.report.explain(CALL_AGAIN) or str(record.failure_detail),
        )

    with under_key(SERVER):
        key = config.server.read_api_key()
    async with ServerClient(SERVER, config.server, model, key) as client:
        # One call in a row: decoding a video takes much longer than switching threads.
        threads = len(os.sched_getaffinity(0)) + 1
        await make_calls(
            client, iter(range(len(work))), prepare, finish, send=send, ahead=PREPARED_AHEAD, threads=threads, batch=1
        )


def reply_record(questions: QuestionSet, item: Item, outcome: Outcome) -> Record:
    """The record of an item after its call.

    Thinking that the server separated from the reply is put back in front of it, in ``<think>`` tags.
    """
    text = outcome.text
    if outcome.reasoning:
        # Without a reply after it the thinking was cut: it must not look finished.
        text = f"<think>{outcome.reasoning}</think>{text}" if text else f"<think>{outcome.reasoning}"
    if outcome.status in _FAILURES:
        record = questions.failed(item, _FAILURES[outcome.status], outcome.error)
    else:
        record = new_record(questions.benchmark, item, finish_reason=outcome.finish_reason)
    return replace(
        record,
        text=text,
        prompt_tokens=outcome.usage.get("prompt_tokens"),
        completion_tokens=outcome.usage.get("completion_tokens"),
        latency_seconds=outcome.latency,
    )
