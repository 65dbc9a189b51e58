"""The samples of a page: their rows in the list, and the replies, traces and verdicts of one that is opened."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from avrt.pages.clip_files import NO_MEDIA, ShownClip
from avrt.sample import Sample
from avrt.text.answers import parse
from avrt.text.options import REASON_MEANINGS
from avrt.traces.call_records import CallRecord
from avrt.traces.config import MERGE
from avrt.traces.decisions import Decided
from avrt.traces.report.survey import KEPT, TraceRun
from avrt.traces.report.verdicts import Verdicts, shown_verdict, word_of
from avrt.traces.teacher_replies import TeacherReply
from avrt.traces.verdicts import INDIVIDUAL

OUTCOME_MEANINGS = {
    **{name: meaning for name, meaning in REASON_MEANINGS.items() if name != "ok"},
    "right": "the gold option",
    "wrong": "another option",
    "length": "cut by the token limit",
    "interrupted": "ended by a filter, a refusal or a tool call, or without text",
    "rejected": "the server refused the request for good",
    "transcribed": "a transcript, which has no vote",
    "missing": "not called yet",
    "no_stream": "the clip lacks what this teacher is sent",
    "not_needed": "not called: the filter drops the sample",
}
"""Outcomes of `avrt.traces.sample_filter.Decision` in words."""

REASON_WORDS = {
    KEPT: "passes the filter",
    "both_wrong": "both teachers: another option",
    "several_wrong": "several teachers: another option",
    "all_wrong": "every teacher: another option",
    "none_right": "no teacher: the gold option",
    "no_majority": "half of the teachers or fewer: the gold option",
}

_THINKING = re.compile(
    r"<\s*think\s*>(?P<tags>.*?)<\s*/\s*think\s*>|◁\s*think\s*▷(?P<marks>.*?)◁\s*/\s*think\s*▷",
    re.DOTALL | re.IGNORECASE,
)


def meaning_of(reason: str, stages: Sequence[str]) -> str:
    """A reason of the filter in words, such as ``vision_length``; empty for an unknown one."""
    if reason in REASON_WORDS:
        return REASON_WORDS[reason]
    stage = next((stage for stage in sorted(stages, key=len, reverse=True) if reason.startswith(f"{stage}_")), None)
    meaning = OUTCOME_MEANINGS.get(reason[len(stage) + 1 :]) if stage is not None else None
    return f"{stage}: {meaning}" if meaning else ""


def index_of(
    run: TraceRun, decided: Sequence[Decided], verdicts: Verdicts | None, reasons: Mapping[str, int]
) -> dict[str, Any]:
    """The data of all samples that the list and its filters need, as compact rows of indices into tables."""
    names = list(reasons)
    types: dict[str, int] = {}
    modalities: dict[str, int] = {}
    splits: dict[str, int] = {}
    words: dict[str, int] = {}
    items = []
    for one in decided:
        judged = _judged(one, verdicts)
        letters = [_letter(one.replies[name]) for name in one.replies]
        items.append(
            [
                one.sample.id,
                one.sample.question,
                one.sample.gold,
                names.index(one.reason),
                splits.setdefault(one.split, len(splits)),
                types.setdefault(one.sample.question_type or "unknown", len(types)),
                modalities.setdefault(one.sample.modality or "unknown", len(modalities)),
                [*letters, _merged_letter(one)] if MERGE in run.stages else letters,
                words.setdefault(judged, len(words)) if judged else None,
            ]
        )
    return {
        "stages": run.stages,
        "reasons": [{"name": name, "meaning": meaning_of(name, run.stages), "all": reasons[name]} for name in names],
        "splits": list(splits),
        "types": list(types),
        "modalities": list(modalities),
        "verdicts": list(words),
        "items": items,
    }


def details_of(run: TraceRun, one: Decided, clip: ShownClip | None, verdicts: Verdicts | None) -> dict[str, Any]:
    """The data of a sample that the page shows when it is opened."""
    sample, outcomes = one.sample, one.outcomes
    calls = [
        {
            "stage": name,
            "model": run.models[name].name,
            "outcome": outcomes[name],
            "meaning": OUTCOME_MEANINGS.get(outcomes[name], ""),
            "replies": [_reply(reply.record, reply.parsed and reply.parsed.letter) for reply in samples_of(reply)],
            "prompt": "",
        }
        for name, reply in one.replies.items()
    ]
    if MERGE in run.stages:
        calls.append(
            {
                "stage": MERGE,
                "model": run.models[MERGE].name,
                "outcome": outcomes[MERGE],
                "meaning": OUTCOME_MEANINGS.get(outcomes[MERGE], ""),
                "replies": [_reply(one.merged, _merged_letter(one))],
                "prompt": one.merge.prompt if one.merge else "",
            }
        )
    return {
        "options": list(sample.options),
        "clip": (clip or NO_MEDIA).as_dict(),
        "source": sample.source,
        "trace": one.trace or "",
        "calls": calls,
        "verdicts": [shown_verdict(row) for row in verdicts.of(sample.id, one.trace)] if verdicts else None,
    }


def samples_of(reply: TeacherReply) -> Sequence[Any]:
    """All of a teacher's replies to one question, each with ``record`` and ``parsed``."""
    return reply.samples or [reply]


def split_thinking(record: CallRecord) -> tuple[str, str]:
    """A reply's thinking, separated by the server or by its tags, and the rest of its text."""
    if record.reasoning:
        return record.reasoning.strip(), record.text.strip()
    match = _THINKING.search(record.text)
    if match is None:
        return "", record.text.strip()
    thinking = match["tags"] if match["tags"] is not None else match["marks"]
    return thinking.strip(), (record.text[: match.start()] + record.text[match.end() :]).strip()


def _reply(record: CallRecord | None, letter: str | None) -> dict[str, Any] | None:
    """A recorded reply, or None if there is none."""
    if record is None:
        return None
    thinking, text = split_thinking(record)
    return {
        "letter": letter,
        "thinking": thinking,
        "text": text,
        "status": record.status.value,
        "finish": record.finish_reason,
        "error": record.error,
        "tokens": [record.usage.get("prompt_tokens"), record.usage.get("completion_tokens")],
        "seconds": record.latency,
        "attempts": record.attempts,
    }


def _letter(reply: TeacherReply) -> str | None:
    return reply.parsed.letter if reply.parsed else None


def _merged_letter(one: Decided) -> str | None:
    return _parsed_letter(one.merged, one.sample) if one.merged is not None else None


def _parsed_letter(record: CallRecord, sample: Sample) -> str | None:
    return parse(record.reply, sample, "robust", record.finish_reason).letter


def _judged(one: Decided, verdicts: Verdicts | None) -> str:
    """The individual verdict on the kept trace, empty if there is none."""
    rows = verdicts.of(one.sample.id, one.trace) if verdicts else []
    return next((word_of(row) for row in rows if row.mode == INDIVIDUAL), "")
