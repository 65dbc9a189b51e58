"""Reading the chosen option out of free text, for models that were never taught the answer tags.

`avrt.answers` decides which stretch of a reply is the final answer; this module decides which option that stretch
names, if any. Every rule is anchored: a letter counts only where it stands alone, in front of its own option's text,
or after words such as "the answer is". A letter inside a sentence ("A man sings") never counts, and a stretch that
names two options names none.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple

from avrt.sample import LETTERS


class Reason(StrEnum):
    """Why a reply was, or was not, read as it was. `avrt.answers.parse` says when each one is given."""

    OK = "ok"
    EMPTY_THINK = "empty_think"
    NO_ANSWER_TAG = "no_answer_tag"
    ORPHAN_CLOSE = "orphan_close"
    UNCLOSED_THINK = "unclosed_think"
    DUPLICATE_TAG = "duplicate_tag"
    TRAILING_TEXT = "trailing_text"
    EMPTY_ANSWER = "empty_answer"
    MULTI_LETTER = "multi_letter"
    NOT_AN_OPTION = "not_an_option"
    LETTER_TEXT_CONFLICT = "letter_text_conflict"
    TRUNCATED = "truncated"


class Reading(NamedTuple):
    """What a stretch of text says: a letter, or why there is none."""

    letter: str | None
    failure: Reason | None = None


NOTHING = Reading(None)
"""The text names no option at all; later rules may still find one."""

_OPEN = r"[\s\"'“‘(\[{【「〔<_]*"
_CLOSE = r"[\s\"'”’)\]}】」〕>_.,:;!。]*"
_BARE = re.compile(rf"{_OPEN}(?:option\s+|choice\s+)?{_OPEN}([A-Za-z]){_CLOSE}", re.IGNORECASE)
_JOIN = r"(?:\s*[,/&;+]\s*|\s+)(?:and\s+|or\s+)?"
_SEVERAL = re.compile(
    rf"{_OPEN}(?:either\s+|both\s+|options?\s+)?[A-Za-z]{_CLOSE}(?:{_JOIN}{_OPEN}[A-Za-z]{_CLOSE})+", re.IGNORECASE
)
_RUN = re.compile(r"[A-Z]{2,}")
_LONE_LETTER = re.compile(r"(?<![A-Za-z])[A-Za-z](?![A-Za-z])")
_LETTER_THEN_TEXT = re.compile(
    rf"{_OPEN}(?:option\s+)?{_OPEN}(?P<letter>[A-Za-z])(?P<separator>\s*[)\]}}】」〕.:,;–—-]+\s*|\s+)(?P<rest>\S.*)",
    re.IGNORECASE | re.DOTALL,
)
_CUE = re.compile(
    r"\b(?:answer|option|choice)\b(?:\s+(?:to|among|for|from|of)\s[^.:\n]{1,60}?)?"
    r"(?P<says>\s*:|\s+(?:is|would\s+be|should\s+be|must\s+be)\b\s*:?)\s*(?P<rest>[^\n]*)",
    re.IGNORECASE,
)
# In running text the letter must be a capital, and a sentence end or a reason must follow: "the answer is a dog" and
# "the answer is B or C" name nothing.
_STATED = re.compile(
    rf"{_OPEN}(?:[Oo]ption\s+)?{_OPEN}(?P<letter>[A-Z])"
    r"(?:[\"'”’)\]}】」〕_]*(?:[.,;!。]|$)|[\"'”’)\]}】」〕_]*\s+(?=(?:because|since|as|given|due)\b))(?P<extra>.*)"
)
_BRACKETED = re.compile(r"[(\[【]\s*([A-Z])\s*[)\]】]")
_MARKER = re.compile(r"(?<!\w)(?:[(\[【]\s*([A-Z])\s*[)\]】]|([A-Z])[.):](?=\s|$))")
_NEGATION = re.compile(
    r"\b(?:no|not|cannot|never|nor|neither|if|whether|unless|unlikely|wrong|incorrect|false|worst|least|except"
    r"|rul(?:e|ed|es|ing)\s+out|eliminat\w*|exclud\w*|reject\w*|rather\s+than|instead\s+of)\b|n['’]t\b",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?。]+[\"'”’)\]]*(?=\s|$)|\n")
_CLAUSE_END = re.compile(r"[.!?。;,:\n]")
_BOXED = re.compile(r"\$*\\boxed\{(?:\\text(?:bf)?\{)?([^{}]*)\}+\$*")
_EMPHASIS = re.compile(r"[*`]+")


def clean(text: str) -> str:
    r"""Bring look-alike characters to one form (NFKC) and drop Markdown emphasis and LaTeX's ``\boxed{}``."""
    return _EMPHASIS.sub("", _BOXED.sub(r"\1", unicodedata.normalize("NFKC", text)))


def read_option(segment: str, options: Sequence[str], *, tagged: bool) -> Reading:
    """Which option a stretch of text names.

    Rules, in order; the first that finds something decides:

    1. the whole stretch, when it is one line: a bare letter (``(b)``, ``【B】``, ``B.``); a letter in front of its own
       option's text (``B. cat``); an option's exact text;
    2. ``Answer: B``, ``the answer is B``, ``the correct option is (B) cat``, wherever they stand;
    3. single lines that are nothing but an answer by rule 1, and an option named with letter and text in the closing
       sentence (``... the best fit is: *(C) Pop rock*``), unless that sentence denies it.

    Two different letters within a rule give `Reason.MULTI_LETTER`; a letter whose text is not its option's gives
    `Reason.LETTER_TEXT_CONFLICT`.

    Args:
        segment: the text, already through `clean`.
        options: the options' texts, without letters.
        tagged: the text stood in answer tags, so something in it was meant as an answer: if nothing is recognised the
            failure is `Reason.NOT_AN_OPTION`, else `Reason.NO_ANSWER_TAG`.
    """
    nothing = Reading(None, Reason.NOT_AN_OPTION if tagged else Reason.NO_ANSWER_TAG)
    lines = [line.strip() for line in segment.splitlines() if line.strip()]
    if not lines:
        return Reading(None, Reason.EMPTY_ANSWER if tagged else Reason.NO_ANSWER_TAG)

    whole = _read_line(lines[0], options) if len(lines) == 1 else NOTHING
    if whole.letter:
        return whole
    announced = _agree(_read_announcements(segment, options))
    if announced is not NOTHING:
        return announced
    if whole is not NOTHING:
        return whole
    alone = [_read_line(line, options, nothing_after=True) for line in lines] if len(lines) > 1 else []
    verdict = _agree([*alone, _read_closing_sentence(segment, options)])
    return nothing if verdict is NOTHING else verdict


def _agree(readings: Iterable[Reading]) -> Reading:
    """One reading out of several: a contradiction or a failure among them spoils all."""
    found = [reading for reading in readings if reading is not NOTHING]
    letters = {reading.letter for reading in found if reading.letter}
    failures = [reading for reading in found if reading.failure]
    if len(letters) > 1:
        return Reading(None, Reason.MULTI_LETTER)
    if failures:
        return failures[0]
    return Reading(letters.pop()) if letters else NOTHING


def _read_line(line: str, options: Sequence[str], *, nothing_after: bool = False) -> Reading:
    """Rule 1 on one line. `nothing_after`: no words may follow the option's text."""
    letters = LETTERS[: len(options)]
    if bare := _BARE.fullmatch(line):
        letter = bare[1].upper()
        return Reading(letter) if letter in letters else Reading(None, Reason.NOT_AN_OPTION)

    by_text = _options_with_text(line, options)
    if _SEVERAL.fullmatch(line) and not by_text:
        named = {letter.upper() for letter in _LONE_LETTER.findall(line)}
        return Reading(named.pop()) if len(named) == 1 and named <= set(letters) else Reading(None, Reason.MULTI_LETTER)
    if _RUN.fullmatch(line) and set(line) <= set(letters) and not by_text:
        return Reading(None, Reason.MULTI_LETTER)

    pair = _LETTER_THEN_TEXT.fullmatch(line)
    if pair and (letter := pair["letter"].upper()) in letters:
        own, extra = _leading_option(pair["rest"], options)
        if letter in own and not (extra and (nothing_after or not pair["separator"].strip())):
            if (by_text and letter not in by_text) or _other_markers(extra, letter, letters):
                return Reading(None, Reason.MULTI_LETTER)
            if not _NEGATION.search(extra) and not extra.rstrip().endswith("?"):
                return Reading(letter)
        elif pair["separator"].strip() and not by_text:
            return Reading(None, Reason.LETTER_TEXT_CONFLICT)
    if len(by_text) > 1:
        return Reading(None, Reason.MULTI_LETTER)
    return Reading(by_text) if by_text else NOTHING


def _read_announcements(text: str, options: Sequence[str]) -> list[Reading]:
    """Rule 2: what follows each "answer:", "the answer is", "the best option is" that is not denied or conditional."""
    readings = []
    position = 0
    while cue := _CUE.search(text, position):
        position = cue.start("rest")
        clause = _CLAUSE_END.split(text[: cue.start()])[-1]
        if not _NEGATION.search(clause):
            readings.append(_read_announced(cue["rest"].strip(), options, label=cue["says"].strip() == ":"))
    return readings


def _read_announced(rest: str, options: Sequence[str], *, label: bool) -> Reading:
    """`label`: a line of the form ``Answer: ...``, where what follows the letter must be its option's text."""
    reading = _read_line(rest, options)
    if reading.letter or (label and reading is not NOTHING):
        return reading
    stated = _STATED.fullmatch(rest)
    if stated and not rest.endswith("?") and (letter := stated["letter"]) in LETTERS[: len(options)]:
        # "The answer is B. The dog barks." is B, unless what follows is the text of another option.
        other, _ = _leading_option(stated["extra"].strip(), options)
        return Reading(None, Reason.LETTER_TEXT_CONFLICT) if other and letter not in other else Reading(letter)
    by_text = _options_with_text(_SENTENCE_END.split(rest)[0], options)
    if len(by_text) == 1:
        return Reading(by_text)
    return reading if reading.failure is Reason.MULTI_LETTER else NOTHING


def _read_closing_sentence(text: str, options: Sequence[str]) -> Reading:
    """Rule 3's second half: ``(C) Pop rock`` in the last sentence, when no other option's letter is bracketed."""
    letters = LETTERS[: len(options)]
    mentions = [m for m in _BRACKETED.finditer(text) if m[1] in letters]
    if not mentions:
        return NOTHING
    if len({m[1] for m in mentions}) > 1:
        return Reading(None, Reason.MULTI_LETTER)
    last, letter = mentions[-1], mentions[-1][1]
    own, extra = _leading_option(text[last.end() :], options)
    if not own:
        return NOTHING
    if letter not in own:
        return Reading(None, Reason.LETTER_TEXT_CONFLICT)
    before = _SENTENCE_END.split(text[: last.start()])[-1]
    sentences = [part for part in _SENTENCE_END.split(extra) if part.strip(" \"'”’)]_.")]
    if len(sentences) > 1 or extra.rstrip().endswith("?") or _NEGATION.search(before) or _NEGATION.search(extra):
        return NOTHING
    return Reading(letter)


def _key(text: str) -> str:
    """Text to compare by: case, white space, quotes, brackets and closing punctuation do not matter."""
    text = " ".join(clean(text).casefold().split())
    return text.lstrip(" \"'“‘([{【「_").rstrip(" \"'”’)]}】」_.,:;!。")


def _options_with_text(text: str, options: Sequence[str]) -> str:
    """Letters of the options whose text this is, e.g. ``"B"``; more than one only where options repeat a text."""
    key = _key(text)
    return "".join(letter for letter, option in zip(LETTERS, options, strict=False) if key and _key(option) == key)


def _leading_option(text: str, options: Sequence[str]) -> tuple[str, str]:
    """Letters of the longest option text that `text` begins with, at a word's end, and what follows it."""
    key = " ".join(clean(text).casefold().split()).lstrip(" \"'“‘([{【「_")
    best, letters = "", ""
    for letter, option in zip(LETTERS, options, strict=False):
        name = _key(option)
        if not name or len(name) < len(best) or not key.startswith(name) or key[len(name) : len(name) + 1].isalnum():
            continue
        letters = letters + letter if name == best else letter
        best = name
    # What follows keeps its capitals: they tell an option's letter from a word.
    tail = " ".join(clean(text).split())[-(len(key) - len(best)) :] if len(key) > len(best) else ""
    return letters, "" if not tail.strip(" \"'”’)]}】」_.,:;!。") else tail


def _other_markers(text: str, letter: str, letters: str) -> bool:
    """Whether `text` names an option other than `letter` the way lists do: ``(C)``, ``C.``, ``C)``."""
    return any((m[1] or m[2]) != letter and (m[1] or m[2]) in letters for m in _MARKER.finditer(text))
