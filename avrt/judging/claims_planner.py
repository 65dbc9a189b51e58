"""The questions to the judge about replies, one for each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.resources import files
from pathlib import Path

from avrt.evaluation.records.record import Record
from avrt.evaluation.scoring import BenchmarkRun
from avrt.files.json_text import whole_text
from avrt.judging.asking import Answer, PlannedCall, decide, in_form
from avrt.judging.claims import ReplyClaims
from avrt.judging.claims_config import ClaimsConfig
from avrt.judging.config import ReaderConfig
from avrt.judging.prompts import QUOTED, place
from avrt.judging.schema import Field, Schema
from avrt.sample import LETTERS
from avrt.servers.content import text_part
from avrt.text.rubrics import fenced
from avrt.traces.call_records import call_key
from avrt.traces.ledger import LedgerIndex
from avrt.traces.recorded_calls import CallGroup, PreparedCall
from avrt.traces.verdicts import digest_of

CLAIMS = "claims"
"""The kind of question, in ledgers and progress lines."""

SCHEMA = Schema(
    (
        Field("seen", "texts", "each statement about what is seen, as the reply words it"),
        Field("heard", "texts", "each statement about what is heard, as the reply words it"),
    )
)


class ReplyPlanner:
    """One question for each reply.

    Args:
        config: the judge.
        scored: the evaluations; items without a reply have no question.
        ledger: folder of the ledger.
    """

    def __init__(self, config: ClaimsConfig, scored: Iterable[BenchmarkRun], ledger: Path) -> None:
        self.config = config
        self.ledger = str(ledger)
        model = config.judge.resolve_model()
        self.model = in_form(model, CLAIMS, SCHEMA) if config.judge.json_schema else model
        self.prompt = (files("avrt.judging") / "prompts" / f"{CLAIMS}.txt").read_text(encoding="utf-8").strip()
        self.records = [
            (run, record) for run in scored for record in run.records if record.failure is None and record.text.strip()
        ]

    @property
    def judge(self) -> ReaderConfig:
        return self.config.judge

    def count(self, mode: str) -> int:
        return len(self.records)

    def group(self, mode: str) -> CallGroup:
        model = self.config.judge.resolve_model()
        return CallGroup(mode, "judge", self.config.judge, model, self.ledger, self.config.max_failed_share)

    def planned(self, mode: str, ledger: LedgerIndex) -> Iterator[tuple[int, str]]:
        # Equal replies to the same question, as of two runs, are one call.
        keys: set[str] = set()
        for number in range(len(self.records)):
            key = self.answer(mode, number, ledger).call.key
            if key not in keys:
                keys.add(key)
                yield number, key

    def prepare(self, mode: str, number: int, ledger: LedgerIndex) -> PreparedCall:
        call = self.answer(mode, number, ledger).call
        content = [text_part(call.prompt)]
        return PreparedCall(call.key, self.records[number][1].id, content, self.model.sampling)

    def answer(self, mode: str, number: int, ledger: LedgerIndex) -> Answer:
        _, record = self.records[number]
        prompt = self._fill(record)
        return decide(prompt, self.judge.max_replies, lambda text: self._call(record, text), SCHEMA, ledger)

    def claims(self, number: int, ledger: LedgerIndex) -> ReplyClaims:
        """The verdict on one reply."""
        run, record = self.records[number]
        answer = self.answer(CLAIMS, number, ledger)
        verdict = answer.verdict or {"seen": None, "heard": None}
        return ReplyClaims(
            run=run.info.run,
            benchmark=record.benchmark,
            id=record.id,
            modalities=run.info.modalities,
            text_sha256=digest_of(record.text),
            **verdict,
            error=answer.error,
        )

    def _fill(self, record: Record) -> str:
        options = [f"({letter}) {text}" for letter, text in zip(LETTERS, record.options, strict=False)]
        parts = {
            "question": record.question,
            "options": "\n".join(options),
            "trace": fenced("reply", whole_text(record.text)),
        }
        text = place(self.prompt, parts)
        return self.model.complete(f"{text}\n\n{QUOTED}\n\n{SCHEMA.describe()}")

    def _call(self, record: Record, prompt: str) -> PlannedCall:
        key = call_key(
            stage=CLAIMS,
            sample_id=record.id,
            media="",
            prompt=prompt,
            model=self.model.name,
            revision=self.model.revision,
            sampling=self.model.sampling,
        )
        return PlannedCall(key, prompt, "")
