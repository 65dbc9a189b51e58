"""The benchmarks' own scoring rules, bugs included.

Each rule takes a record's raw part and returns whether the benchmark's script would count the reply as right, or None
if the script leaves the item out of its denominator. They behave as their authors wrote them, so that scores are
comparable with published numbers; `avrt.evaluation.scoring` computes the strict score beside them.

No rule raises, whatever the reply.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from avrt.evaluation.records.record import Record

_LETTER_AT_START = re.compile(r"\s*([A-D])", re.IGNORECASE)
_WORD = re.compile(r"\b\w+\b")
_VIDEO_MME_LETTER = re.compile(r"[ABCD]")

VIDEO_MME_PREFIXES_2024_06_03 = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    # These two were meant to be four phrases: the script lacks commas, so they never match.
    "The best option isThe correct option is",
    "Best answer:Best option:",
)
"""Phrases that Video-MME's first script removes, in this order, before it looks for a letter."""

VIDEO_MME_PREFIXES = (
    *VIDEO_MME_PREFIXES_2024_06_03,
    "Answer:",
    "Option:",
    "The correct answer",
    "The correct option",
)
"""Phrases that the script removes to which Video-MME's README links since 18 June 2024."""


def dailyomni(record: Record) -> bool | None:
    """DailyOmni: the letter that the reply begins with, in either case, even as part of a word ("Because" is B).

    A reply that thinks first begins with another character and is wrong. Items that fail (no video, an exception)
    leave the denominator. The script also looks after a remainder of its own prompt ("assistant"), which a reply does
    not have.
    """
    if record.failure is not None:
        return None
    match = _LETTER_AT_START.match(record.text)
    return match is not None and match[1].upper() == record.gold


def video_mme(record: Record) -> bool | None:
    """Video-MME: the first capital A to D anywhere in the reply, once some phrases are removed.

    "A man sings, so B" is A, "Answer: B" is B. Replies without such a letter leave the denominator.
    """
    return _video_mme(record, VIDEO_MME_PREFIXES)


def video_mme_2024_06_03(record: Record) -> bool | None:
    """Video-MME's first script, which its authors replaced on 18 June 2024: "Answer: B" is A."""
    return _video_mme(record, VIDEO_MME_PREFIXES_2024_06_03)


def _video_mme(record: Record, prefixes: Sequence[str]) -> bool | None:
    if record.failure is not None:
        return None
    text = record.text.strip()
    for prefix in prefixes:
        text = text.replace(prefix, "")
    match = _VIDEO_MME_LETTER.search(text)
    return None if match is None else match[0] == record.gold


def omnibench(record: Record) -> bool | None:
    """OmniBench: letters, then option texts, searched in the reply; the gold letter is searched the same way.

    The gold answer is a text, and its letter is parsed out of it by the same rules as the reply's. So a gold answer
    "A man is answering some questions" has gold letter A, whichever option it is. A gold text in which nothing is
    found stops the script; here no reply matches it.
    """
    gold = omnibench_letter(record.official_gold or "", record.options)
    return gold is not None and omnibench_letter(record.text, record.options) == gold


def omnibench_letter(text: str, options: Sequence[str]) -> str | None:
    """The letter that OmniBench's parser (taken from MMMU) reads from a text, or None.

    In order, the first that finds anything: ``(A)``; ``A`` and a space, also at a word's end; ``A.``; for texts of
    more than five words, an option's text within it. Of several letters the one found last in the text counts.
    """
    letters = [chr(ord("A") + index) for index in range(len(options))]
    padded = f" {text} "
    lower = padded.lower()
    if found := [letter for letter in letters if f"({letter})" in padded]:
        return _last(found, [padded.rfind(f"({letter})") for letter in found])
    for pattern in ("{} ", "{}."):
        if found := [letter for letter in letters if pattern.format(letter) in padded]:
            # Both kinds are compared by the position of a separate letter, -1 if there is none.
            return _last(found, [padded.rfind(f" {letter} ") for letter in found])
    if len(padded.split()) > 5:
        texts = dict(zip(letters, (option.lower() for option in options), strict=True))
        found = [letter for letter in letters if texts[letter] in lower]
        return _last(found, [lower.rfind(texts[letter]) for letter in found])
    return None


def word_set_match(record: Record) -> bool | None:
    """MMAU and MMAR: all words of the gold option are in the reply, and no word that only other options have.

    Words are compared as sets, so their order and number are lost: "first happy, second sad" matches "first sad,
    second happy". A bare letter is never right. Entries without a prediction leave the denominator.
    """
    if record.failure is not None:
        return None
    predicted, gold = _words(record.text), _words(record.official_gold or "")
    wrong: set[str] = set()
    for option in record.options:
        words = _words(option)
        if words != gold:
            wrong |= words - gold
    return bool(predicted) and gold <= predicted and not predicted & wrong


def _last(letters: list[str], places: list[int]) -> str | None:
    """The letter with the largest position, the first of equals."""
    return letters[places.index(max(places))] if letters else None


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower()))
