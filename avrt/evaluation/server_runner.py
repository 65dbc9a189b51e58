"""Evaluating a model behind OpenAI-compatible servers: many calls at a time, each recorded immediately.

A request has the frames as ``image_url`` parts, the audio as ``input_audio``, then the question.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import Sequence
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
from avrt.evaluation.terminal_tables import score_console
from avrt.sample import Clip
from avrt.servers.call_report import CallReport, check_failed_share
from avrt.servers.calls import make_calls
from avrt.servers.client import ServerClient, ServerError
from avrt.servers.clip_content import media_parts
from avrt.servers.config import Model, under_key
from avrt.servers.content import Content, text_part
from avrt.servers.outcome import Outcome, Status
from avrt.servers.progress import CallProgress
from avrt.text.prompts import arrange, clip_modalities, question_text

log = logging.getLogger(__name__)

SERVER_ERROR = "server_error"
"""`Record.failure`: every attempt failed."""
SERVER_REFUSED = "server_refused"
"""`Record.failure`: the server refuses this request permanently (too long, media that it cannot read)."""
NO_INPUT = "no_input"
"""`Record.failure`: the item has none of the streams that the model accepts."""

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
                prompt=prompt_settings(config.template, config.answer_format, system=False, suffix=model.suffix),
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
    settings = {**model.sampling, "inputs": config.streams, "jpeg_quality": config.jpeg_quality}
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
    Job = tuple[Question, Record | None]
    shown = {(questions.name, item.index): (questions, item) for questions, item, _ in work}
    # Replies to one item are asked for at the same time; its clip is decoded for the first of them, and the others wait
    # (`lru_cache` alone would decode in every thread that comes before the first has finished).
    content_of = lru_cache(maxsize=PREPARED_AHEAD)(lambda place: build_request(*shown[place], config, model))
    waiting = [Lock() for _ in range(4 * PREPARED_AHEAD)]

    def prepare(number: int) -> tuple[Job, Content | None]:
        questions, item, _ = work[number]
        with waiting[item.index % len(waiting)]:
            content = content_of((questions.name, item.index))
        if isinstance(content, Record):
            return (work[number], content), None
        return (work[number], None), content

    async def finish(job: Job, outcome: Outcome | None) -> None:
        (questions, item, repeat), record = job
        if outcome is not None:
            tally.report.add_made(outcome)
            record = reply_record(questions, item, outcome)
        assert record is not None
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
            client, iter(range(len(work))), prepare, finish, ahead=PREPARED_AHEAD, threads=threads, batch=1
        )


def build_request(questions: QuestionSet, item: Item, config: ServerRunConfig, model: Model) -> Content | Record:
    """The content of an item's one user message, or its record if it cannot be shown."""
    sample = questions.show(item, config.media)
    if isinstance(sample, Record):
        return sample
    text = model.complete(question_text(sample, answer_format=config.answer_format, template=config.template))
    parts = prompt_parts(sample.clips, text, config.streams, config.jpeg_quality)
    if all(part["type"] == "text" for part in parts):
        return questions.failed(item, NO_INPUT, f"the item has no stream of `inputs` {config.streams}")
    return parts


def prompt_parts(clips: Sequence[Clip], text: str, inputs: str, jpeg_quality: int) -> Content:
    """A question's clips and text in the order in which a model gets them, see `avrt.text.prompts.arrange`.

    Args:
        clips: of one question.
        text: of the prompt.
        inputs, jpeg_quality: as for `media_parts`.
    """
    streams = [
        [name for name in clip_modalities(clip) if ("A" if name == "audio" else "V") in inputs] for clip in clips
    ]
    parts: Content = []
    for part in arrange(text, streams):
        if isinstance(part, str):
            parts.append(text_part(part))
        else:
            parts += media_parts(clips[part[0]], "A" if part[1] == "audio" else "V", jpeg_quality)
    return parts


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
