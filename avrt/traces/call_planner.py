"""The calls of a stage: one per sample that has the needed stream or replies, each with its key."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from avrt.data.records import to_sample
from avrt.data.shards import ShardSet
from avrt.sample import Sample
from avrt.servers.config import Model
from avrt.servers.outcome import Status
from avrt.text.answers import ParsedAnswer, parse
from avrt.traces.call_records import CallRecord, call_key, media_hash
from avrt.traces.config import STAGES, Stage, TracesConfig
from avrt.traces.ledger import LedgerIndex
from avrt.traces.prompts import fill_prompt, load_prompt, trace_for_merger
from avrt.traces.stage_content import sent_members

TEACHERS: tuple[Stage, Stage] = ("vision", "audio")


@dataclass(frozen=True)
class PlannedCall:
    """One call of a stage.

    Attributes:
        key: see `avrt.traces.call_records.call_key`.
        index: the sample's index in the shards.
        sample: the question, without media.
        prompt: all text of the call.
        media: hash of the media that are sent; empty for text only.
    """

    key: str
    index: int
    sample: Sample
    prompt: str
    media: str


@dataclass(frozen=True)
class TeacherReply:
    """A teacher's recorded reply, parsed.

    Attributes:
        record: the finished call, or None if there is none (yet, or the sample lacks the teacher's stream).
        parsed: its answer; None unless the reply is complete.
        right: whether the answer is the gold option.
        has_stream: whether the sample has the frames or audio that the teacher needs.
    """

    record: CallRecord | None
    parsed: ParsedAnswer | None
    right: bool
    has_stream: bool = True


class CallPlanner:
    """Plans calls from input shards, config and the replies in the ledger.

    Args:
        config: checked settings.
        shards: the input.
    """

    def __init__(self, config: TracesConfig, shards: ShardSet) -> None:
        self.config = config
        self.shards = shards
        self.models: dict[Stage, Model] = {stage: config.stage(stage).resolve_model() for stage in STAGES}
        self.prompts = {stage: load_prompt(stage, config.stage(stage).prompt_file) for stage in STAGES}

    def teacher_call(self, stage: Stage, index: int) -> PlannedCall | None:
        """A teacher's call about one sample; None if the sample lacks its stream."""
        return self._teacher_call(stage, index, self.shards.record(index))

    def _teacher_call(self, stage: Stage, index: int, record: dict[str, Any]) -> PlannedCall | None:
        names = sent_members(stage, list(record["members"]))
        if not names:
            return None
        sample = to_sample(record)
        model = self.models[stage]
        prompt = fill_prompt(self.prompts[stage], sample, suffix=model.suffix, frames=str(len(names)))
        return self._call(stage, index, sample, prompt, media_hash(record["members"], names))

    def merge_call(self, index: int, sample: Sample, replies: dict[Stage, TeacherReply]) -> PlannedCall | None:
        """The merger's call about one sample; None without two complete teacher replies, or if the filter drops it."""
        records = [replies[stage].record for stage in TEACHERS]
        if any(record is None or record.status is not Status.OK for record in records):
            return None
        if self.config.variant != "unfiltered" and not all(replies[stage].right for stage in TEACHERS):
            return None
        vision, audio = (trace_for_merger(r.reply, self.config.max_teacher_chars) for r in records if r is not None)
        model = self.models["merge"]
        prompt = fill_prompt(self.prompts["merge"], sample, suffix=model.suffix, vision_trace=vision, audio_trace=audio)
        return self._call("merge", index, sample, prompt, "")

    def teacher_replies(self, index: int, ledger: LedgerIndex) -> tuple[Sample, dict[Stage, TeacherReply]]:
        """A sample, and both teachers' recorded replies to it."""
        record = self.shards.record(index)
        sample = to_sample(record)
        replies: dict[Stage, TeacherReply] = {}
        for stage in TEACHERS:
            call = self._teacher_call(stage, index, record)
            reply = read_teacher(ledger.get(call.key) if call else None, sample)
            replies[stage] = replace(reply, has_stream=call is not None)
        return sample, replies

    def calls(self, stage: Stage, ledger: LedgerIndex) -> Iterator[PlannedCall]:
        """All calls of a stage that can be made now, in the shards' order; done or not."""
        for index in range(len(self.shards)):
            call = self.call(stage, index, ledger)
            if call is not None:
                yield call

    def call(self, stage: Stage, index: int, ledger: LedgerIndex) -> PlannedCall | None:
        """A stage's call about one sample, or None if there is none to make now."""
        if stage != "merge":
            return self.teacher_call(stage, index)
        return self.merge_call(index, *self.teacher_replies(index, ledger))

    def _call(self, stage: Stage, index: int, sample: Sample, prompt: str, media: str) -> PlannedCall:
        model = self.models[stage]
        key = call_key(
            stage=stage,
            sample_id=sample.id,
            media=media,
            prompt=prompt,
            model=model.name,
            revision=model.revision,
            sampling=model.sampling,
        )
        return PlannedCall(key, index, sample, prompt, media)


def read_teacher(record: CallRecord | None, sample: Sample) -> TeacherReply:
    """Parse a teacher's reply. Parsed again each time, so that a better parser needs no new call."""
    if record is None or record.status is not Status.OK:
        return TeacherReply(record, None, False)
    parsed = parse(record.reply, sample, "robust", record.finish_reason)
    return TeacherReply(record, parsed, sample.is_right(parsed.letter))
