"""A teacher's recorded replies to one question, parsed: which one represents it, how sure and how right it is.

Replies are parsed again in each run, so that a better parser needs no new call.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from avrt.sample import Sample
from avrt.servers.outcome import Status
from avrt.text.answers import ParsedAnswer, parse
from avrt.traces.call_records import CallRecord


@dataclass(frozen=True)
class SampleReply:
    """One of a teacher's replies to a question.

    Attributes:
        record: the finished call, or None if there is none yet.
        parsed: its answer; None unless the reply is complete.
        right: whether the answer is the gold option.
    """

    record: CallRecord | None
    parsed: ParsedAnswer | None
    right: bool

    @property
    def missing(self) -> bool:
        """Whether the call is still to be made."""
        return self.record is None or self.record.status is Status.GAVE_UP


@dataclass(frozen=True)
class TeacherReply:
    """A teacher's replies to one question.

    The reply that represents the teacher is the first one with its most common answer; no gold answer is used for that.

    Attributes:
        record: its finished call, or None if there is none (yet, or the sample lacks the teacher's stream).
        parsed: its answer; None unless the reply is complete.
        right: whether the answer is the gold option.
        has_stream: whether the sample has the frames or audio that the teacher needs.
        samples: all replies, in the order of their seeds; empty without the stream.
        votes: whether the teacher answers; false for one that transcribes.
    """

    record: CallRecord | None
    parsed: ParsedAnswer | None
    right: bool
    has_stream: bool = True
    samples: tuple[SampleReply, ...] = ()
    votes: bool = True

    @property
    def missing(self) -> bool:
        """Whether a call of the teacher is still to be made."""
        return self.has_stream and (not self.samples or any(sample.missing for sample in self.samples))

    @property
    def complete(self) -> bool:
        """Whether there is a whole reply: one that was not refused, cut or interrupted."""
        return self.record is not None and self.record.status is Status.OK

    @property
    def agreement(self) -> float:
        """Share of the samples with the most common answer, 0 to 1; 0 if none has an answer."""
        counts = _letters(self.samples)
        return max(counts.values(), default=0) / len(self.samples) if self.samples else 0.0

    @property
    def right_share(self) -> float:
        """Share of the samples that are right, 0 to 1."""
        return sum(sample.right for sample in self.samples) / len(self.samples) if self.samples else 0.0


def read_teacher(records: Sequence[CallRecord | None], sample: Sample, *, votes: bool = True) -> TeacherReply:
    """Parse a teacher's replies.

    Args:
        records: one per sample; None where the call is not made yet.
        sample: the question.
        votes: whether the teacher answers; a transcript is not parsed.
    """
    if not votes:
        transcripts = tuple(SampleReply(record, None, False) for record in records)
        return TeacherReply(transcripts[0].record, None, False, samples=transcripts, votes=False)
    replies = tuple(_read_sample(record, sample) for record in records)
    counts = _letters(replies)
    letter = max(counts, key=lambda name: counts[name]) if counts else None
    chosen = next((reply for reply in replies if _letter(reply) == letter and reply.parsed is not None), replies[0])
    return TeacherReply(chosen.record, chosen.parsed, chosen.right, samples=replies)


def _read_sample(record: CallRecord | None, sample: Sample) -> SampleReply:
    if record is None or record.status is not Status.OK:
        return SampleReply(record, None, False)
    parsed = parse(record.reply, sample, "robust", record.finish_reason)
    return SampleReply(record, parsed, sample.is_right(parsed.letter))


def _letter(reply: SampleReply) -> str | None:
    return None if reply.parsed is None else reply.parsed.letter


def _letters(replies: Sequence[SampleReply]) -> Counter[str]:
    """Replies by answer, in the order in which the answers first occur."""
    return Counter(letter for reply in replies if (letter := _letter(reply)) is not None)
