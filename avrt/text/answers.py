"""Parsing a model's reply: its thinking, its answer, and whether it follows the format.

The project's only parser (trace filter, rewards, evaluation). Two profiles:

``paper``
    For students trained on the format, and for headline accuracy. The tags are exactly ``<think>``, ``</think>``,
    ``<answer>``, ``</answer>``, in lower case. The answer is the stripped body of the answer pair and must be an
    option's capital letter and nothing else: ``b``, ``B.`` and ``B. cat`` are wrong. The letter does not depend on the
    rest of the format (text around the tags, a missing or broken think pair) or on other text of the reply: it is the
    accuracy term of the reward, so ``<answer>B</answer> Wait, C.`` is B, with the reason ``trailing_text``. But there
    must be exactly one ``<answer>`` and one ``</answer>``: two pairs, or one inside the other, are ambiguous.

``robust``
    For teachers and other models. Look-alike characters are unified (NFKC); tags may be in any case and Kimi's
    ``◁think▷ ... ◁/think▷`` counts as thinking. The answer is the last complete answer pair after the thinking (a
    model may revise itself), else the text after the thinking, else the last pair within it; `avrt.text.option_reader`
    reads the option from it. An answer that is doubted, denied or retracted around its tags does not count; a
    correction replaces it. Thinking itself is never searched for loose letters.

Neither profile guesses: without a clear answer the letter is None.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from avrt.sample import LETTERS, Sample
from avrt.text.line_reader import agree
from avrt.text.normalize import clean, unify
from avrt.text.option_reader import OptionReader
from avrt.text.options import Reason, several_letters

__all__ = [
    "ParsedAnswer",
    "Profile",
    "Reason",
    "answer_body",
    "count_think_words",
    "first_think",
    "is_formatted",
    "parse",
    "strip_special_tokens",
]

Profile = Literal["paper", "robust"]

_SPECIAL_TOKEN = re.compile(r"<\|\w+\|>|</?s>|<(?:bos|eos|pad|end_of_turn)>")
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_FORMATTED = re.compile(r"<think>.*</think>\s*<answer>(.*)</answer>", re.DOTALL)

# Robust profile: any case, white space inside the tag, Kimi's markers.
_ANSWER = r"(?:final[_ ])?answer"
_ANSWER_PAIR = re.compile(
    rf"<\s*{_ANSWER}\s*>((?:(?!<\s*{_ANSWER}\s*>).)*?)<\s*/\s*{_ANSWER}\s*>", re.DOTALL | re.IGNORECASE
)
_ANSWER_TAG = re.compile(rf"<\s*/?\s*{_ANSWER}\s*>", re.IGNORECASE)
_THINK_OPEN = re.compile(r"<\s*think\s*>|◁\s*think\s*▷", re.IGNORECASE)
_THINK_CLOSE = re.compile(r"<\s*/\s*think\s*>|◁\s*/\s*think\s*▷", re.IGNORECASE)
_JOINED = re.compile(r"\s*(?:or|and|/|,|&)\s*", re.IGNORECASE)
_BEFORE_PAIR = 500
"""Characters before an answer pair that are searched for a denial."""

# Failures that the token limit explains.
_EXPLAINED_BY_CUT = (Reason.NO_ANSWER_TAG, Reason.UNCLOSED_THINK, Reason.ORPHAN_CLOSE, Reason.EMPTY_ANSWER)


@dataclass(frozen=True)
class ParsedAnswer:
    """A parsed reply.

    Attributes:
        letter: the chosen option's letter, or None where no option was clearly chosen.
        reason: ``ok``, or the reply's fault; it may still have a letter (see `parse`).
        think: the first complete thinking, unchanged, or None.
    """

    letter: str | None
    reason: Reason
    think: str | None = None


def strip_special_tokens(text: str) -> str:
    """Remove end-of-turn and similar tokens (``<|im_end|>``, ``</s>``, ...) and outer white space."""
    return _SPECIAL_TOKEN.sub("", text).strip()


def is_formatted(text: str) -> bool:
    """The format term of the reward (Eq. 4): whether the whole reply is one think pair, then one answer pair.

    Only white space may be around and between the pairs; each of the four tags occurs exactly once; the answer is not
    blank. A blank think body is allowed. Whether the answer is an option does not matter here.
    """
    text = strip_special_tokens(text)
    if any(text.count(tag) != 1 for tag in _TAGS):
        return False
    match = _FORMATTED.fullmatch(text)
    return match is not None and bool(match[1].strip())


def answer_body(text: str) -> str | None:
    """The stripped text between the answer tags, or None unless each of the two occurs exactly once, in order."""
    text = strip_special_tokens(text)
    if text.count("<answer>") != 1 or text.count("</answer>") != 1:
        return None
    body, closed, _ = text.partition("<answer>")[2].partition("</answer>")
    return body.strip() if closed else None


def first_think(text: str) -> str | None:
    """The text from the first ``<think>`` to the first ``</think>`` after it, or None where no pair is complete."""
    _, opened, after = strip_special_tokens(text).partition("<think>")
    body, closed, _ = after.partition("</think>")
    return body if opened and closed else None


def count_think_words(text: str) -> int:
    """White-space-separated words in `first_think`; 0 where there is none."""
    return len((first_think(text) or "").split())


def parse(
    text: str, sample_or_options: Sample | Sequence[str], profile: Profile = "paper", finish_reason: str = "stop"
) -> ParsedAnswer:
    """Parse a reply to a multiple-choice question. No `text` raises an exception.

    The reasons, for profile ``paper`` (letter: whether one is returned all the same):

    ================== ====== =====================================================================================
    reason             letter the reply
    ================== ====== =====================================================================================
    ok                 yes    follows the format, has thinking, and names an option
    empty_think        yes    has a blank think body, or none at all
    orphan_close       some   has a closing tag without its opening tag before it
    unclosed_think     some   opens ``<think>`` and never closes it
    duplicate_tag      some   has a tag more than once; no letter if it is an answer tag
    trailing_text      yes    has text outside the two pairs, or the pairs in another order
    no_answer_tag      no     has no complete answer pair
    empty_answer       no     has a blank answer
    multi_letter       no     names several letters
    not_an_option      no     answers with anything but an option's capital letter
    truncated          no     reached the token limit before its answer
    ================== ====== =====================================================================================

    In profile ``robust`` the reply's structure matters less: with a letter the reason is ``ok``, or ``empty_think``
    after a blank thinking, or ``duplicate_tag`` where the last of several answer pairs counts. Without a letter it is a
    reason above, or ``letter_text_conflict``: a letter is beside another option's text. ``no_answer_tag`` then means
    that no option is named, or only one that the reply denies, doubts or retracts.

    Args:
        text: the decoded reply; special tokens may still be in it.
        sample_or_options: the question's sample, or its options' texts.
        profile: ``paper`` or ``robust``.
        finish_reason: ``length`` if the token limit ended the reply; its last, unfinished line is then ignored.

    Raises:
        ValueError: unknown profile, or not 2 to 26 options.
    """
    options = sample_or_options.options if isinstance(sample_or_options, Sample) else sample_or_options
    if isinstance(options, str) or not 2 <= len(options) <= len(LETTERS):
        raise ValueError(f"`sample_or_options` must be a Sample or 2 to {len(LETTERS)} option texts, got {options!r}")
    if profile not in get_args(Profile):
        raise ValueError(f"`profile` must be one of {', '.join(get_args(Profile))}, got {profile!r}")
    cut = finish_reason == "length"
    parsed = _parse_paper(text, options) if profile == "paper" else _parse_robust(text, options, cut)
    if cut and parsed.letter is None and parsed.reason in _EXPLAINED_BY_CUT:
        return ParsedAnswer(None, Reason.TRUNCATED, parsed.think)
    return parsed


def _parse_paper(text: str, options: Sequence[str]) -> ParsedAnswer:
    think, body = first_think(text), answer_body(text)
    defect = _format_defect(strip_special_tokens(text), think, body)
    if body is None:
        return ParsedAnswer(None, defect or Reason.NO_ANSWER_TAG, think)
    if not body:
        return ParsedAnswer(None, Reason.EMPTY_ANSWER, think)
    if body in set(LETTERS[: len(options)]):
        return ParsedAnswer(body, defect or Reason.OK, think)
    several = len(several_letters(body)) > 1
    return ParsedAnswer(None, Reason.MULTI_LETTER if several else Reason.NOT_AN_OPTION, think)


def _format_defect(text: str, think: str | None, body: str | None) -> Reason | None:
    """The worst fault of the reply's tags (profile ``paper``), or None."""
    opens, closes, answer_opens, answer_closes = (text.count(tag) for tag in _TAGS)
    if max(opens, closes, answer_opens, answer_closes) > 1:
        return Reason.DUPLICATE_TAG
    if opens and not closes:
        return Reason.UNCLOSED_THINK
    if (closes and think is None) or (answer_closes and body is None):
        return Reason.ORPHAN_CLOSE
    if not (answer_opens and answer_closes):
        return Reason.NO_ANSWER_TAG
    if opens and not _FORMATTED.fullmatch(text):
        return Reason.TRAILING_TEXT
    if not opens and not (text.startswith("<answer>") and text.endswith("</answer>")):
        return Reason.TRAILING_TEXT
    return Reason.EMPTY_THINK if not (think or "").strip() else None


def _parse_robust(text: str, options: Sequence[str], cut: bool) -> ParsedAnswer:
    text = strip_special_tokens(text)
    closings = [*_THINK_CLOSE.finditer(text)] if _may_have_tags(text) else []
    if not closings:
        text = unify(text)
        closings = [*_THINK_CLOSE.finditer(text)] if _may_have_tags(text) else []
    final = unify(text[closings[-1].end() :]) if closings else text
    think = _THINK_OPEN.sub("", text[: closings[0].start()]).strip() if closings else None
    note = Reason.EMPTY_THINK if think == "" else Reason.OK

    reader = OptionReader(options)
    tags = _may_have_tags(text)
    where, pairs = final, [*_ANSWER_PAIR.finditer(final)] if tags else []
    if not pairs:
        unfinished = tags and _THINK_OPEN.search(final) is not None
        if not unfinished:
            reading = reader.read(_final_text(final, cut), tagged=False)
            if reading.letter or reading.failure is not Reason.NO_ANSWER_TAG:
                return ParsedAnswer(reading.letter, reading.failure or note, think)
        where, pairs = text, [*_ANSWER_PAIR.finditer(text)] if tags else []
        if not pairs:
            return ParsedAnswer(None, _missing_answer(final, unfinished), think)
    reading = reader.read(clean(pairs[-1][1]), tagged=True)
    if len(pairs) > 1 and _JOINED.fullmatch(where, pairs[-2].end(), pairs[-1].start()):
        reading = agree([reader.read(clean(pairs[-2][1]), tagged=True), reading])
    before = clean(_ANSWER_TAG.sub("\n", where[max(0, pairs[-1].start() - _BEFORE_PAIR) : pairs[-1].start()]))
    after = _THINK_CLOSE.sub("\n", _final_text(where[pairs[-1].end() :], cut))
    reading = reader.with_context(reading, before, after)
    return ParsedAnswer(reading.letter, reading.failure or (Reason.DUPLICATE_TAG if len(pairs) > 1 else note), think)


def _may_have_tags(text: str) -> bool:
    return "<" in text or "◁" in text


def _final_text(text: str, cut: bool) -> str:
    """The reply after its thinking, without loose answer tags, and without an unfinished last line."""
    text = clean(_ANSWER_TAG.sub("\n", text) if "<" in text else text)
    return text.rpartition("\n")[0] if cut else text


def _missing_answer(final: str, unfinished: bool) -> Reason:
    """The reason for a reply without a complete answer pair and without a readable answer."""
    if unfinished:
        return Reason.UNCLOSED_THINK
    if tag := _ANSWER_TAG.search(final):
        return Reason.ORPHAN_CLOSE if "/" in tag[0] else Reason.EMPTY_ANSWER
    return Reason.NO_ANSWER_TAG
