"""The prompts of a run: their wording as part of ``run.json``, and the text that was sent for an item."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from itertools import takewhile
from typing import Any

from avrt.evaluation.benchmarks.base import paths_of
from avrt.evaluation.item_clips import KINDS
from avrt.evaluation.records.record import Record
from avrt.evaluation.records.run_info import RunInfo
from avrt.sample import LETTERS, Sample
from avrt.text.prompts import AnswerFormat, PromptTemplate, arrange, question_text


@dataclass(frozen=True)
class SentPrompt:
    """The text that a model got for an item, around its media.

    Attributes:
        system: the system message; empty if none was sent.
        user: the text of the user's message.
    """

    system: str
    user: str


def prompt_settings(
    template: PromptTemplate, answer_format: AnswerFormat, *, system: bool = True, suffix: str = ""
) -> dict[str, Any]:
    """The wording of a run's prompts, for `RunInfo.prompt`; only the instruction that is used.

    Args:
        system: whether the system message is sent.
        suffix: sentence that ends every prompt.
    """
    instruction = f"{answer_format}_instruction"
    settings = {"option_line": template.option_line, instruction: getattr(template, instruction)}
    if template.question_line != PromptTemplate.question_line:  # absent by default, as in earlier versions
        settings["question_line"] = template.question_line
    return settings | ({"system": template.system} if system else {}) | ({"suffix": suffix} if suffix else {})


def prompt_fingerprint(info: RunInfo) -> str | None:
    """sha256 over all settings of a run's prompts: wording, answer format, system message, and the rest of `prompt`.

    Runs with equal fingerprints asked their questions in the same words. None where the prompts are unknown: for
    imported replies, and in folders of versions that did not record them.
    """
    if not info.prompt:
        return None
    return hashlib.sha256(json.dumps([info.answer_format, info.prompt], sort_keys=True).encode()).hexdigest()


def sent_prompt(info: RunInfo, record: Record) -> SentPrompt | None:
    """The text that was sent for an item of a run; None where the prompts are unknown."""
    settings = info.prompt or {}
    values = {item.name: settings[item.name] for item in fields(PromptTemplate) if item.name in settings}
    if not values:
        return None
    sample = Sample(record.id, record.question, record.options, LETTERS.index(record.gold))
    text = question_text(sample, answer_format=info.answer_format, template=PromptTemplate(**values))
    suffix = settings.get("suffix", "")
    return SentPrompt(settings.get("system", ""), f"{text}\n{suffix}" if suffix else text)


def shown_prompt(info: RunInfo, record: Record) -> str:
    """The whole prompt of an item to read: system message, and the text with each file in brackets at its place.

    Empty where the prompts are unknown.
    """
    sent = sent_prompt(info, record)
    if sent is None:
        return ""
    files = [(kind,) for kind in KINDS for _ in paths_of(record.media.get(kind, ()))]
    parts = arrange(sent.user, files)
    before = list(takewhile(lambda part: not isinstance(part, str), parts))
    first = " ".join(f"[{part[1]}]" for part in before)
    text = "".join(part if isinstance(part, str) else f"[{part[1]}]" for part in parts[len(before) :])
    return "\n\n".join(part for part in (sent.system, first, text) if part)
