"""The questions to the judge, the call of each, and the verdict in its recorded replies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from avrt.judging.asking import Answer, PlannedCall, decide, in_form
from avrt.judging.config import JudgeConfig, ReaderConfig
from avrt.judging.media import JudgeMedia
from avrt.judging.prompts import fill_prompt, load_prompt, question_parts
from avrt.judging.schema import schema_of, source_meanings
from avrt.judging.trace_sets import JudgedTrace, TraceSets
from avrt.servers.config import Model
from avrt.servers.content import Content, text_part
from avrt.text.rubrics import fenced
from avrt.traces.call_records import call_key
from avrt.traces.ledger import LedgerIndex
from avrt.traces.recorded_calls import CallGroup, PreparedCall
from avrt.traces.verdicts import (
    BAD_JSON,
    HALLUCINATING,
    INDIVIDUAL,
    MISSING,
    MODES,
    OK,
    Mode,
    VerdictRecord,
    digest_of,
)


@dataclass(frozen=True)
class Question:
    """One question to the judge: about a set's trace, or about the traces of two sets."""

    sample_id: str
    set: str
    against: str = ""


class JudgePlanner:
    """Plans calls from the sets, the config and the replies in the ledger.

    Args:
        config: checked settings.
        sets: opened sets.

    Raises:
        ValueError: a mode is wanted that the sets do not allow, or a prompt cannot be used.
    """

    def __init__(self, config: JudgeConfig, sets: TraceSets) -> None:
        self.config = config
        self.sets = sets
        self.modes = _modes(config, sets)
        self.questions = {mode: self._questions(mode) for mode in self.modes}
        # `source` is never asked without `individual`.
        self._individual = {question: number for number, question in enumerate(self.questions.get(INDIVIDUAL, ()))}
        # By set, since each has teachers of its own.
        self.schemas = {
            (mode, name): schema_of(mode, sets.teachers[name]) for mode in self.modes for name in sets.names
        }
        self.models: dict[tuple[Mode, str], Model] = {place: self._model(*place) for place in self.schemas}
        self._prompts = {mode: load_prompt(mode, getattr(config.prompt_files, mode)) for mode in self.modes}
        self._media = JudgeMedia(config.judge)

    def _questions(self, mode: Mode) -> list[Question]:
        ids, names = self.sets.sample_ids, self.sets.names
        if mode == "head_to_head":
            first, second = names
            orders = ((first, second), (second, first))
            return [Question(sample_id, *order) for sample_id in ids for order in orders]
        asked = names if mode == INDIVIDUAL else _with_sources(self.sets)
        return [Question(sample_id, name) for sample_id in ids for name in asked]

    def _model(self, mode: Mode, name: str) -> Model:
        """The judge with the parameters of a mode's calls about a set."""
        model = self.config.judge.resolve_model()
        return in_form(model, mode, self.schemas[mode, name]) if self.config.judge.json_schema else model

    @property
    def judge(self) -> ReaderConfig:
        """The servers."""
        return self.config.judge

    def count(self, mode: Mode) -> int:
        """Number of questions of a mode."""
        return len(self.questions[mode])

    def group(self, mode: Mode) -> CallGroup:
        """The calls of a mode as the ledger knows them."""
        config = self.config
        model = config.judge.resolve_model()
        return CallGroup(mode, "judge", config.judge, model, config.ledger, config.max_failed_share)

    def planned(self, mode: Mode, ledger: LedgerIndex) -> Iterator[tuple[int, str]]:
        """Number and key of the deciding call of every question of a mode that can be asked now; done or not."""
        for number in range(len(self.questions[mode])):
            answer = self.answer(mode, number, ledger)
            if answer is not None:
                yield number, answer.call.key

    def prepare(self, mode: Mode, number: int, ledger: LedgerIndex) -> PreparedCall:
        """The deciding call of a question with its media."""
        answer = self.answer(mode, number, ledger)
        assert answer is not None
        question, call = self.questions[mode][number], answer.call
        parts: Content = []
        if call.media:
            trace = self.sets.trace(question.set, question.sample_id)
            parts = self._media.content(self.sets.media(question.set, trace.index), trace.sample.source)
        sampling = self.models[mode, question.set].sampling
        return PreparedCall(call.key, question.sample_id, [*parts, text_part(call.prompt)], sampling)

    def answer(self, mode: Mode, number: int, ledger: LedgerIndex) -> Answer | None:
        """What the ledger has for a question; None for a source question about a trace without false claims."""
        question = self.questions[mode][number]
        explanation = ""
        if mode == "source":
            flagged = self.answer("individual", self._individual[question], ledger)
            if flagged is None or flagged.verdict is None or flagged.verdict["verdict"] != HALLUCINATING:
                return None
            claims = "".join(f"\n- {claim}" for claim in flagged.verdict["hallucinated_claims"])
            explanation = flagged.verdict["explanation"] + claims
        trace = self.sets.trace(question.set, question.sample_id)
        prompt = self._prompt(mode, question, trace, explanation)
        schema = self.schemas[mode, question.set]
        limit = self.config.judge.max_replies
        return decide(prompt, limit, lambda text: self._call(mode, question, trace, text), schema, ledger)

    def records(self, ledger: LedgerIndex) -> Iterator[VerdictRecord]:
        """The lines of ``verdicts.jsonl``."""
        for mode in self.modes:
            for number, question in enumerate(self.questions[mode]):
                answer = self.answer(mode, number, ledger)
                if answer is not None:
                    yield self._record(mode, question, answer)

    def _record(self, mode: Mode, question: Question, answer: Answer) -> VerdictRecord:
        trace = self.sets.trace(question.set, question.sample_id)
        other = self.sets.trace(question.against, question.sample_id).trace if question.against else None
        status = MISSING if answer.record is None else answer.record.status.value
        if status == OK and answer.verdict is None:
            status = BAD_JSON
        return VerdictRecord(
            mode=mode,
            sample=question.sample_id,
            source=trace.sample.source,
            set=question.set,
            against=question.against,
            trace_sha256=digest_of(trace.trace),
            against_sha256="" if other is None else digest_of(other),
            streams=self._media.streams(trace.members),
            status=status,
            bad_replies=answer.bad_replies,
            error=answer.error,
            key=answer.call.key,
            verdict=answer.verdict,
        )

    def _call(self, mode: Mode, question: Question, trace: JudgedTrace, prompt: str) -> PlannedCall:
        model = self.models[mode, question.set]
        media = self._media.digest(trace.members, trace.sample.source)
        key = call_key(
            stage=mode,
            sample_id=trace.sample.id,
            media=media,
            prompt=prompt,
            model=model.name,
            revision=model.revision,
            sampling=model.sampling,
        )
        return PlannedCall(key, prompt, media)

    def _prompt(self, mode: Mode, question: Question, trace: JudgedTrace, explanation: str) -> str:
        parts = {**question_parts(trace.sample), "media": self._media.describe(trace.members)}
        if mode == "head_to_head":
            other = self.sets.trace(question.against, question.sample_id)
            parts |= {"trace_a": fenced("trace_a", trace.trace), "trace_b": fenced("trace_b", other.trace)}
        else:
            parts["trace"] = fenced("trace", trace.trace)
        if mode == "source":
            teachers = self.sets.teachers[question.set]
            replies = {
                f"{name}_trace": fenced(f"{name}_teacher", trace.sample.teacher_traces.get(name, "(no reply)"))
                for name in teachers
            }
            meanings = source_meanings(teachers)
            parts |= replies | {
                "teachers": ", ".join(f"the {name} teacher" for name in teachers),
                "teacher_traces": "\n\n".join(replies.values()),
                "explanation": fenced("explanation", explanation),
                "sources": "\n".join(f"- {source}: {meaning}" for source, meaning in meanings.items()),
            }
        place = mode, question.set
        return self.models[place].complete(fill_prompt(mode, self._prompts[mode], parts, self.schemas[place]))


def _modes(config: JudgeConfig, sets: TraceSets) -> tuple[Mode, ...]:
    """The modes of a run, in order.

    Raises:
        ValueError: ``source`` is wanted, and no set has the traces of several teachers.
    """
    has_sources = bool(_with_sources(sets))
    allowed = {"individual": True, "head_to_head": len(sets.names) == 2, "source": has_sources}
    if config.modes is not None and "source" in config.modes and not has_sources:
        raise ValueError(
            "modes: source needs the traces of two teachers or more, and no set of `sets` has them; remove it"
        )
    return tuple(mode for mode in MODES if allowed[mode] and (config.modes is None or mode in config.modes))


def _with_sources(sets: TraceSets) -> list[str]:
    """The sets whose traces were merged: with one teacher there is only one source."""
    return [name for name in sets.names if len(sets.teachers[name]) > 1]
