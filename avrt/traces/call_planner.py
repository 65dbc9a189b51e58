"""The calls of a stage: those about each sample that has the needed stream or replies, each with its key."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from avrt.data.records import to_sample
from avrt.data.shards import ShardSet
from avrt.sample import Sample
from avrt.servers.config import Model
from avrt.servers.frame_rate import with_frame_rate
from avrt.servers.outcome import Status
from avrt.text.prompts import question_text
from avrt.traces.call_records import call_key, media_hash
from avrt.traces.config import MERGE, TracesConfig
from avrt.traces.filter_rules import reason_to_drop, teacher_outcome
from avrt.traces.ledger import LedgerIndex
from avrt.traces.merge_prompt import MergePrompt
from avrt.traces.prompts import NO_WORDS, fill_prompt, teacher_prompt
from avrt.traces.stage_content import is_frame, sent_members
from avrt.traces.student_prompt import frame_rate
from avrt.traces.teacher_replies import TeacherReply, read_teacher


@dataclass(frozen=True)
class PlannedCall:
    """One call of a stage.

    Attributes:
        key: see `avrt.traces.call_records.call_key`.
        index: the sample's index in the shards.
        repeat: number of the call among those about the same sample; 0 for the first.
        sample: the question, without media.
        prompt: text of the user message.
        media: hash of the media that are sent; empty for text only.
        sampling: every parameter that is sent.
        system: the system message; empty for none.
    """

    key: str
    index: int
    repeat: int
    sample: Sample
    prompt: str
    media: str
    sampling: Mapping[str, Any]
    system: str = ""


class CallPlanner:
    """Plans calls from input shards, config and the replies in the ledger.

    Args:
        config: checked settings.
        shards: the input.

    Raises:
        ValueError: a prompt file that cannot work; names its key.
    """

    def __init__(self, config: TracesConfig, shards: ShardSet) -> None:
        self.config = config
        self.shards = shards
        self.models: dict[str, Model] = {stage: config.stage(stage).resolve_model() for stage in config.stages}
        self.prompts = {name: teacher_prompt(config.key(name), teacher) for name, teacher in config.teachers.items()}
        self._merge_prompt: MergePrompt | None = None
        if config.merge is not None:
            self._merge_prompt = MergePrompt(config)
            self.prompts[MERGE] = self._merge_prompt.template

    def repeats(self, stage: str) -> int:
        """Calls of a stage about each sample."""
        return 1 if stage == MERGE else self.config.teachers[stage].samples

    def teacher_call(self, name: str, index: int, repeat: int = 0, transcript: str | None = None) -> PlannedCall | None:
        """A teacher's call about one sample; None if the sample lacks its stream, or the transcript that it is sent."""
        return self._teacher_call(name, index, repeat, self.shards.record(index), transcript)

    def _teacher_call(
        self, name: str, index: int, repeat: int, record: dict[str, Any], transcript: str | None
    ) -> PlannedCall | None:
        teacher = self.config.teachers[name]
        sent = sent_members(teacher.streams, list(record["members"]))
        if sent is None or (teacher.inputs == "transcript" and transcript is None):
            return None
        sample = to_sample(record)
        media = media_hash(record["members"], sent)
        if (template := teacher.student_template) is not None:
            text, rate = question_text(sample, template=template), frame_rate(record["clip"], teacher.streams)
            return self._call(name, index, repeat, sample, text, media, template.system, rate)
        prompt = ""
        if not teacher.is_transcriber:
            values = {"frames": str(sum(map(is_frame, sent)))}
            if transcript is not None:
                values["transcript"] = transcript.strip() or NO_WORDS
            prompt = fill_prompt(self.prompts[name], sample, suffix=self.models[name].suffix, **values)
        return self._call(name, index, repeat, sample, prompt, media)

    def merge_call(self, index: int, sample: Sample, replies: Mapping[str, TeacherReply]) -> PlannedCall | None:
        """The merger's call about one sample.

        None if there is no merger, a teacher's call is missing, no teacher has a complete reply, or the filter drops
        the sample.
        """
        config = self.config
        if self._merge_prompt is None or any(reply.missing for reply in replies.values()):
            return None
        outcomes = {name: teacher_outcome(reply, config) for name, reply in replies.items()}
        complete = {name: reply for name, reply in replies.items() if reply.complete}
        if not complete or reason_to_drop(outcomes, config.voters, config.rule) is not None:
            return None
        prompt = self._merge_prompt.fill(sample, complete, self.models[MERGE].suffix)
        return self._call(MERGE, index, 0, sample, prompt, "")

    def teacher_replies(self, index: int, ledger: LedgerIndex) -> tuple[Sample, dict[str, TeacherReply]]:
        """A sample, and the recorded replies of every teacher to it, in the config's order."""
        record = self.shards.record(index)
        sample = to_sample(record)
        transcriber = self.config.transcriber
        replies: dict[str, TeacherReply] = {}
        for name in self.config.teachers:
            source = replies.get(transcriber) if transcriber is not None else None
            replies[name] = self._teacher_reply(name, index, record, sample, ledger, source)
        return sample, replies

    def _teacher_reply(
        self,
        name: str,
        index: int,
        record: dict[str, Any],
        sample: Sample,
        ledger: LedgerIndex,
        source: TeacherReply | None,
    ) -> TeacherReply:
        """Read a teacher's replies; `source` is the transcriber's, which comes before its readers."""
        teacher = self.config.teachers[name]
        transcript = source.record.reply if source and source.complete and source.record else None
        repeats = range(teacher.samples)
        calls = [self._teacher_call(name, index, repeat, record, transcript) for repeat in repeats]
        keys = [call.key for call in calls if call is not None]
        if keys:
            return read_teacher([ledger.get(key) for key in keys], sample, votes=not teacher.is_transcriber)
        # A reader's call is still to be made if the transcriber's is.
        waits = teacher.inputs == "transcript" and source is not None and source.missing
        return TeacherReply(None, None, False, has_stream=waits, votes=not teacher.is_transcriber)

    def calls(self, stage: str, ledger: LedgerIndex) -> Iterator[PlannedCall]:
        """All calls of a stage that can be made now, in the shards' order; done or not."""
        for index in range(len(self.shards)):
            for repeat in range(self.repeats(stage)):
                call = self.call(stage, index, repeat, ledger)
                if call is not None:
                    yield call

    def call(self, stage: str, index: int, repeat: int, ledger: LedgerIndex) -> PlannedCall | None:
        """A stage's call about one sample, or None if there is none to make now."""
        if stage != MERGE:
            return self.teacher_call(stage, index, repeat, self._transcript(stage, index, ledger))
        return self.merge_call(index, *self.teacher_replies(index, ledger))

    def _transcript(self, stage: str, index: int, ledger: LedgerIndex) -> str | None:
        """The transcript that a teacher is sent, or None if there is none, or it is sent none."""
        transcriber = self.config.transcriber
        if transcriber is None or self.config.teachers[stage].inputs != "transcript":
            return None
        call = self.teacher_call(transcriber, index)
        record = ledger.get(call.key) if call is not None else None
        return record.reply if record is not None and record.status is Status.OK else None

    def _call(
        self,
        stage: str,
        index: int,
        repeat: int,
        sample: Sample,
        prompt: str,
        media: str,
        system: str = "",
        rate: float | None = None,
    ) -> PlannedCall:
        model = self.models[stage]
        sampling = with_frame_rate(repeat_sampling(model.sampling, repeat), rate)
        key = call_key(
            stage=stage,
            sample_id=sample.id,
            media=media,
            # As JSON, so that the two texts cannot be exchanged for others with the same joint text.
            prompt=json.dumps([system, prompt]) if system else prompt,
            model=model.name,
            revision=model.revision,
            sampling=sampling,
        )
        return PlannedCall(key, index, repeat, sample, prompt, media, sampling, system)


def repeat_sampling(sampling: Mapping[str, Any], repeat: int) -> Mapping[str, Any]:
    """Parameters of a call by its number: the first as configured, so that a ledger keeps its calls when `samples` is
    raised; each further one with a seed of its own."""
    return {**sampling, "seed": sampling.get("seed", 0) + repeat} if repeat else sampling
