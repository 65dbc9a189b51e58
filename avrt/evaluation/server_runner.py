"""Answering benchmarks with a model behind OpenAI-compatible servers: many calls at a time, each recorded at once.

A request has the frames as ``image_url`` parts, the sound as ``input_audio``, then the question.
"""

from __future__ import annotations

import asyncio
import base64
import io
import logging
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import soundfile
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from torchvision.io import encode_jpeg

from avrt.evaluation.benchmarks import Item, new_record
from avrt.evaluation.question_sets import QuestionSet, open_question_sets, prompt_settings
from avrt.evaluation.records.log import RecordWriter
from avrt.evaluation.records.record import Record
from avrt.evaluation.run_log import begin_run, finish_run, say_missing
from avrt.evaluation.running import RunningScores
from avrt.evaluation.score_table import score_console
from avrt.evaluation.scoring import BenchmarkRun, grade_record
from avrt.evaluation.server_config import SERVER, ServerRunConfig
from avrt.sample import SAMPLING_RATE, Clip
from avrt.servers.client import ServerPool, StageError
from avrt.servers.config import Model, api_key, resolve_model
from avrt.servers.replies import Outcome
from avrt.servers.status import Status
from avrt.text.prompts import question_text
from avrt.traces.stage_report import StageReport

log = logging.getLogger(__name__)

SERVER_ERROR = "server_error"
"""`Record.failure`: no attempt was answered."""
SERVER_REFUSED = "server_refused"
"""`Record.failure`: the server refuses this request for good (too long, a medium it cannot read)."""
REPLY_INTERRUPTED = "reply_interrupted"
"""`Record.failure`: the reply ended for another reason than the model's turn or the token limit."""
NO_INPUT = "no_input"
"""`Record.failure`: the item has none of the streams that the model takes."""

AGAIN = "the same command asks again"

ENOUGH_TO_JUDGE = 100
"""Calls after which the share of failures can stop a run."""

Work = tuple[QuestionSet, Item]


def run_server_evaluation(config: ServerRunConfig) -> list[BenchmarkRun]:
    """Ask everything that is not answered yet, then score.

    Returns:
        The benchmarks, scored.

    Raises:
        ValueError: wrong settings, a folder of another run, servers that do not answer, or no reply at all. What is
            recorded stays; the same command resumes from there.
        OSError: the disk is full or failing.
    """
    run = Path(config.run)
    question_sets = open_question_sets(config.questions)
    model = resolve_model(SERVER, config.server)  # type: ignore[arg-type]
    work: list[Work] = []
    answered = 0
    progress = _ServerProgress(sum(len(questions.items) for questions in question_sets))
    with ExitStack() as stack:
        writers = {}
        for questions in question_sets:
            info = questions.run_info(
                run=config.name or run.resolve().name,
                model=model.name,
                answer_format=config.answer_format,
                profile=config.profile,
                media=config.media,
                decoding={**model.sampling, "inputs": config.inputs, "jpeg_quality": config.jpeg_quality},
                prompt=prompt_settings(config.template, config.answer_format, system=False),
                weights=model.revision,
            )
            state = begin_run(run, questions, info)
            say_missing(questions, state, score_console())
            writers[questions.name] = stack.enter_context(RecordWriter(run / questions.name))
            answered += len(state.answered)
            work += [(questions, item) for item in questions.items if item.sample.id not in state.done]
            for record in state.answered + state.missing:
                progress.count(grade_record(record, config.profile), earlier=True)
        stack.enter_context(progress)
        if work:
            asyncio.run(_ask_all(config, model, work, writers, progress))
    report = progress.report
    if report.made.total() and not report.made[Status.OK] + report.made[Status.LENGTH] and not answered:
        raise StageError(f"{SERVER}: none of {report.made.total()} calls succeeded: {report.explain(AGAIN)}")
    if reasons := report.explain(AGAIN):
        log.warning("%s: %s", SERVER, reasons)
    return finish_run(run, question_sets, score_console(), config.harness)


async def _ask_all(
    config: ServerRunConfig,
    model: Model,
    work: list[Work],
    writers: dict[str, RecordWriter],
    progress: _ServerProgress,
) -> None:
    key = api_key(SERVER, config.server)  # type: ignore[arg-type]
    async with ServerPool(SERVER, config.server, model, key) as pool:  # type: ignore[arg-type]
        await pool.check()
        todo = iter(work)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(pool.capacity, len(work))):
                    group.create_task(_ask_some(config, pool, todo, writers, progress))
        except ExceptionGroup as errors:
            # The first one says it all: the others were cancelled, or met the same full disk or dead server.
            raise _first(errors) from None


async def _ask_some(
    config: ServerRunConfig,
    pool: ServerPool,
    todo: Iterator[Work],
    writers: dict[str, RecordWriter],
    progress: _ServerProgress,
) -> None:
    for questions, item in todo:
        # In a thread: decoding takes longer than everything else, and must not hold up the other calls.
        content = await asyncio.to_thread(build_request, questions, item, config)
        if isinstance(content, Record):
            record = content
        else:
            outcome = await pool.call(content)
            progress.report.add_made(outcome.status, outcome.error)
            record = reply_record(questions, item, outcome)
        await asyncio.to_thread(writers[questions.name].append, record)
        progress.count(grade_record(record, config.profile))
        failed, asked = progress.failed, progress.asked
        if asked >= ENOUGH_TO_JUDGE and failed > config.max_failed_share * asked:
            raise StageError(
                f"{SERVER}: {failed} of {asked} calls failed, more than max_failed_share allows "
                f"({config.max_failed_share:g}): {progress.report.explain(AGAIN) or record.failure_detail}"
            )


def build_request(questions: QuestionSet, item: Item, config: ServerRunConfig) -> list[dict[str, Any]] | Record:
    """The content of an item's one user message, or its record where it cannot be shown."""
    sample = questions.show(item, config.media)
    if isinstance(sample, Record):
        return sample
    assert sample.clip is not None
    parts = media_parts(sample.clip, config.inputs, config.jpeg_quality)
    if not parts:
        return questions.failed(item, NO_INPUT, f"the item has no stream of `inputs` {config.inputs}")
    text = question_text(sample, answer_format=config.answer_format, template=config.template)
    return [*parts, {"type": "text", "text": text}]


def media_parts(clip: Clip, inputs: str, jpeg_quality: int) -> list[dict[str, Any]]:
    """A clip's frames as JPEG and its sound as 16-bit WAV, in OpenAI's form.

    Args:
        inputs: streams that are sent: ``AV``, ``A`` or ``V``.
        jpeg_quality: 1 to 100.
    """
    parts: list[dict[str, Any]] = []
    if clip.frames is not None and "V" in inputs:
        for frame in clip.frames:
            data = bytes(encode_jpeg(frame.contiguous(), quality=jpeg_quality).numpy())
            parts.append({"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{_base64(data)}"}})
    if clip.waveform is not None and "A" in inputs:
        buffer = io.BytesIO()
        soundfile.write(buffer, clip.waveform.numpy(), SAMPLING_RATE, format="WAV", subtype="PCM_16")
        parts.append({"type": "input_audio", "input_audio": {"data": _base64(buffer.getvalue()), "format": "wav"}})
    return parts


def reply_record(questions: QuestionSet, item: Item, outcome: Outcome) -> Record:
    """What came of a call, as the item's record.

    Thinking that the server has taken out of the reply is put back in front of it, in ``<think>`` tags.
    """
    if outcome.status is Status.REJECTED:
        record = questions.failed(item, SERVER_REFUSED, outcome.error)
    elif outcome.status is Status.GAVE_UP:
        record = questions.failed(item, SERVER_ERROR, outcome.error)
    elif outcome.status is Status.INTERRUPTED:
        record = questions.failed(item, REPLY_INTERRUPTED, outcome.error)
    else:
        text = outcome.text
        if outcome.reasoning:
            # Without a reply behind it the thinking was cut: it must not look finished.
            text = f"<think>{outcome.reasoning}</think>{text}" if text else f"<think>{outcome.reasoning}"
        record = new_record(questions.benchmark, item, text=text, finish_reason=outcome.finish_reason)
    return replace(
        record,
        prompt_tokens=outcome.usage.get("prompt_tokens"),
        completion_tokens=outcome.usage.get("completion_tokens"),
        latency_seconds=outcome.latency,
    )


class _ServerProgress(Progress):
    """A bar on standard error: items done, accuracy so far, failures.

    Attributes:
        asked, failed: items of this run, and those of them without a reply.
        report: its calls.
    """

    def __init__(self, items: int) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[outcomes]}"),
        )
        super().__init__(*columns, console=Console(stderr=True))
        self.asked = self.failed = 0
        self.report = StageReport()
        self._scores = RunningScores()
        self._bar: TaskID = self.add_task("questions", total=items, outcomes="")

    def count(self, record: Record, earlier: bool = False) -> None:
        """One more scored item; `earlier` ones were done before this run."""
        self._scores.add([record])
        if not earlier:
            self.asked += 1
            self.failed += record.failure is not None
        outcomes = f"{self._scores.accuracy_here():.1%} right, {self.failed} without a reply"
        self.update(self._bar, advance=1, outcomes=outcomes)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _first(errors: ExceptionGroup[Exception]) -> Exception:
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first
