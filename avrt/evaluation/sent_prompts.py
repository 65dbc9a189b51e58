"""The prompt that a run sent for an item, from the wording that the run recorded."""

from __future__ import annotations

from avrt.evaluation.question_sets import prompt_template
from avrt.evaluation.records.record import Record
from avrt.evaluation.records.run_info import RunInfo
from avrt.sample import LETTERS, Sample
from avrt.text.prompts import question_text


def sent_text(record: Record, info: RunInfo) -> str:
    """The text of the item's message; empty where the wording is unknown (imported replies, earlier versions)."""
    template = prompt_template(info)
    if template is None:
        return ""
    sample = Sample(record.id, record.question, record.options, LETTERS.index(record.gold))
    return question_text(sample, answer_format=info.answer_format, template=template)


def sent_prompt(record: Record, info: RunInfo) -> str:
    """The whole prompt as text: system message if one was sent, the item's streams in brackets, the question."""
    text = sent_text(record, info)
    if not text:
        return ""
    system = (info.prompt or {}).get("system")
    streams = " ".join(f"[{kind}]" for kind in ("video", "image", "audio") if kind in record.media)
    return "\n\n".join(part for part in (system, streams, text) if part)
