"""The trace in a merger's reply, wherever its server has put the thinking.

A merger is asked for ``<think>`` and ``<answer>``, and these are also the tags by which servers find a model's own
thinking and take it out. What is left depends on the server:

======================================== ==================================== ========================================
thinking that the server separated       text                                 trace
======================================== ==================================== ========================================
none                                     ``<think>M</think><answer>B</...``   the text
``M``, with or without its tags          ``<answer>B</answer>``               put back: ``<think>M</think><answer>B...``
the model's own                          ``<think>M</think><answer>B</...``   the text
the model's own, or none                 ``M</think><answer>B</answer>``      the text with its ``<think>`` put back
none: ``<think>`` is in the chat         ``own</think><think>M</think>...``   the text behind the own thinking
template, and no parser is on
none: an empty block, Kimi's markers     ``<think></think><think>M</think>`` the text behind them
======================================== ==================================== ========================================

The fourth row is SGLang's: it removes every opening tag of a reply. Two whole blocks with text in both are not taken
apart: the first may be half of the trace.
"""

from __future__ import annotations

import re

from avrt.text.answers import strip_special_tokens
from avrt.traces.call_records import CallRecord

OPEN, CLOSE = "<think>", "</think>"

_ANY_TAG = re.compile(r"</?\s*think\s*>|◁/?think▷", re.IGNORECASE)
_OWN_THINKING = re.compile(r"<think>\s*</think>|◁think▷.*◁/think▷", re.DOTALL)
"""Thinking in front of a trace that is nothing else for certain, besides one whose opening tag is missing."""


def merger_text(record: CallRecord) -> str:
    """A merger's reply without thinking that is not part of its trace; its format is not checked here."""
    text = strip_special_tokens(record.text)
    start = text.rfind(OPEN)
    if start < 0:
        if text.count(CLOSE) == 1:
            return OPEN + text
        return f"{OPEN}{_ANY_TAG.sub('', record.reasoning).strip()}{CLOSE}\n{text}" if record.reasoning else text
    before = text[:start].strip()
    template_opened = OPEN not in before and before.endswith(CLOSE)
    return text[start:] if template_opened or _OWN_THINKING.fullmatch(before) else text
