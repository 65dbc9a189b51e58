"""The part of a reply that holds its answer, for benchmarks' own rules.

A benchmark's rule was written for replies that consist of the answer alone. Papers about models that think first give
it the text between the answer tags, or behind the thinking, and so does the score ``official_answer``.
"""

from __future__ import annotations

import dataclasses
import re

from avrt.evaluation.records.record import Record
from avrt.sample import LETTERS
from avrt.text.answers import strip_special_tokens

_THINK_END = re.compile(r"<\s*/\s*think\s*>|◁\s*/\s*think\s*▷", re.IGNORECASE)
_THINK_BEGIN = re.compile(r"<\s*think\s*>|◁\s*think\s*▷", re.IGNORECASE)
_BARE_LETTER = re.compile(r"\W*([A-Z])\W*")


def answer_part(text: str) -> str:
    """The text between the last complete pair of answer tags, else behind the thinking, else the whole reply.

    A reply whose thinking is not finished has no answer: the empty text.
    """
    text = strip_special_tokens(text)
    before, closed, _ = text.rpartition("</answer>")
    _, opened, body = before.rpartition("<answer>")
    if closed and opened:
        return body.strip()
    *thinking, rest = _THINK_END.split(text)
    if not thinking and _THINK_BEGIN.search(text):
        return ""
    return rest.strip()


def answer_record(record: Record, as_text: bool) -> Record:
    """The record with its answer's text instead of the whole reply.

    Args:
        as_text: write a bare letter as its option's text, for rules that compare texts.
    """
    text = answer_part(record.text)
    letter = _BARE_LETTER.fullmatch(text) if as_text else None
    if letter and (place := LETTERS.index(letter[1])) < len(record.options):
        text = record.options[place]
    return dataclasses.replace(record, text=text)
