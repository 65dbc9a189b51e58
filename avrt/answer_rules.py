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

_OPEN_CHARS = " \t\"'“‘([{【「〔<_"
_CLOSE_CHARS = " \t\"'”’)]}】」〕>_.,:;!。"
_OPEN = r"[\s\"'“‘(\[{【「〔<_]*"
_CLOSE = r"[\s\"'”’)\]}】」〕>_.,:;!。]*"
_BARE = re.compile(rf"{_OPEN}(?:(?:option|choice)\s+{_OPEN})?([A-Za-z]){_CLOSE}", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]+")
_LIST_WORDS = frozenset({"and", "or", "either", "both", "option", "options"})
_LETTER_THEN_TEXT = re.compile(
    rf"{_OPEN}(?:option\s+{_OPEN})?(?P<letter>[A-Za-z])(?P<separator>\s*[)\]}}】」〕.:,;–—-]+\s*|\s+)(?P<rest>\S.*)",
    re.IGNORECASE,
)
_CUE = re.compile(
    r"\b(?:answer|option|choice|fit|match)\b(?:\s+(?:to|among|for|from|of)\s[^.:\n]{1,60}?)?"
    r"(?P<says>\s*:|\s+(?:is|would\s+be|should\s+be|must\s+be)\b\s*:?)\s*(?P<rest>[^\n]{0,1000})",
    re.IGNORECASE,
)
# In running text the letter must be a capital, and a sentence end or a reason must follow: "the answer is a dog" and
# "the answer is B or C" name nothing.
_STATED = re.compile(
    rf"{_OPEN}(?:[Oo]ption\s+{_OPEN})?(?P<letter>[A-Z])[\"'”’)\]}}】」〕_]*"
    r"(?:[.,;!。]|$|\s+(?=(?:because|since|as|given|due)\b))(?P<extra>.*)"
)
_BRACKETED = re.compile(r"[(\[【]\s*([A-Z])\s*[)\]】]")
# A capital standing alone; "A" and "I" are words too, unless punctuation or another letter follows.
_LONE_CAPITAL = re.compile(r"(?<!\w)(?:([B-HJ-Z])(?!\w)|([AI])(?=\s*(?:$|[.,;:)\]】!?/&]|(?:or|and)\b)))")
_CONJUNCTION = re.compile(r"\W*(?:\b(?:or|and)\b|[/&])\W*", re.IGNORECASE)
_NEGATION = re.compile(
    r"\b(?:no|not|cannot|never|nor|neither|if|whether|unless|unlikely|wrong|incorrect|false|worst|least|except"
    r"|rul(?:e|ed|es|ing)\s+out|eliminat\w*|exclud\w*|reject\w*|rather\s+than|instead\s+of)\b|n['’]t\b",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?。][\"'”’)\]]*(?=\s|$)|\n")
_CLAUSE_END = re.compile(r"[.!?。;,:\n]|\b(?:so|thus|hence|therefore|but)\b", re.IGNORECASE)
_CLAUSE_CHARS = 200
"""How far back a denial or condition is looked for."""
_BOXED = re.compile(r"\${0,2}\\boxed\{(?:\\text(?:bf)?\{)?([^{}]*)\}{1,2}\${0,2}")
_EMPHASIS = re.compile(r"[*`]+")


def clean(text: str) -> str:
    r"""Bring look-alike characters to one form (NFKC) and drop Markdown emphasis and LaTeX's ``\boxed{}``."""
    return _EMPHASIS.sub("", _BOXED.sub(r"\1", unicodedata.normalize("NFKC", text)))


def several_letters(line: str) -> set[str]:
    """The letters of a line that is a mere list of them (``A, B``, ``(A) or (C)``, ``AB``); empty for other lines."""
    words = _WORD.findall(line)
    letters = [word.upper() for word in words if len(word) == 1]
    if len(letters) > 1 and all(len(word) == 1 or word.lower() in _LIST_WORDS for word in words):
        return set(letters)
    return set(line) if line.isascii() and line.isalpha() and line.isupper() and len(line) > 1 else set()


class OptionReader:
    """Finds which of a question's options a stretch of text names.

    Rules, in order; the first that finds something decides:

    1. the whole stretch, when it is one line: a bare letter (``(b)``, ``【B】``, ``B.``); a letter in front of its own
       option's text (``B. cat``); an option's exact text;
    2. ``Answer: B``, ``the answer is B``, ``the best fit is: (B) cat``, wherever they stand, unless denied or
       conditional; other lines that are nothing but an answer must agree, save a list of options above;
    3. single lines that are nothing but an answer by rule 1, and an option named with letter and text in the closing
       sentence (``... the best fit is: *(C) Pop rock*``), unless that sentence denies it.

    Two different letters within a rule give `Reason.MULTI_LETTER`; a letter whose text is not its option's gives
    `Reason.LETTER_TEXT_CONFLICT`. The running time is linear in the text's length but for its number of "answer:".
    """

    def __init__(self, options: Sequence[str]) -> None:
        self.letters = LETTERS[: len(options)]
        names = [_strip(clean(option)) for option in options]
        self._keys = [_key(name) for name in names]
        self._patterns = [
            re.compile(r"\s+".join(re.escape(word) for word in name.split()) + r"(?!\w)", re.IGNORECASE)
            for name in names
        ]

    def read(self, segment: str, *, tagged: bool) -> Reading:
        """Read a stretch of text that went through `clean`.

        `tagged`: it stood in answer tags, so something in it was meant as an answer: if nothing is recognised the
        failure is `Reason.NOT_AN_OPTION`, else `Reason.NO_ANSWER_TAG`.
        """
        lines = [line.strip() for line in segment.splitlines() if line.strip()]
        if not lines:
            return Reading(None, Reason.EMPTY_ANSWER if tagged else Reason.NO_ANSWER_TAG)
        whole = self._read_line(lines[0]) if len(lines) == 1 else NOTHING
        if whole.letter:
            return whole
        announced = self._read_announcements(segment)
        if announced is not NOTHING:
            return announced
        if whole is not NOTHING:
            return whole
        alone = self._read_lines(lines) if len(lines) > 1 else []
        verdict = _agree([*alone, self._read_closing_sentence(segment)])
        return verdict if verdict is not NOTHING else Reading(None, _nothing_found(tagged))

    def _read_line(self, line: str, *, nothing_after: bool = False) -> Reading:
        """Rule 1 on one line. `nothing_after`: it is one line of many, so no words may follow the option's text."""
        if bare := _BARE.fullmatch(line):
            letter = bare[1].upper()
            return Reading(letter) if letter in self.letters else Reading(None, Reason.NOT_AN_OPTION)
        by_text = self._with_text(line)
        several = several_letters(line)
        pair = _LETTER_THEN_TEXT.fullmatch(line)
        if pair and pair["letter"].upper() in self.letters:
            with_text = self._read_letter_and_text(pair, by_text, nothing_after)
            # Options may be letters themselves (notes): "B. D" is B if that is its text, but "B, D" is a list.
            if with_text is not NOTHING and not (several and (with_text.failure or "," in pair["separator"])):
                return with_text
        if not by_text and several and several <= set(self.letters):
            return Reading(several.pop()) if len(several) == 1 else Reading(None, Reason.MULTI_LETTER)
        if len(by_text) > 1:
            return Reading(None, Reason.MULTI_LETTER)
        return Reading(by_text) if by_text else NOTHING

    def _read_letter_and_text(self, pair: re.Match[str], by_text: str, nothing_after: bool) -> Reading:
        """``B. cat``. `by_text`: letters of the options whose text is the whole line, letter included."""
        letter, marked = pair["letter"].upper(), bool(pair["separator"].strip())
        own, extra = self._leading(pair["rest"])
        if letter in own:
            # Without a mark between ("B cat") the letter may be a word ("A dog"): then nothing more may follow.
            if extra and (nothing_after or not marked):
                return NOTHING
            if by_text.strip(letter) or self._names_another(extra, letter):
                return Reading(None, Reason.MULTI_LETTER)
            return NOTHING if _denied_or_asked(extra) else Reading(letter)
        if marked and not by_text and (own or not nothing_after):
            return Reading(None, Reason.LETTER_TEXT_CONFLICT)
        return NOTHING

    def _read_lines(self, lines: Iterable[str]) -> list[Reading]:
        return [self._read_line(line.strip(), nothing_after=True) for line in lines]

    def _read_announcements(self, text: str) -> Reading:
        """Rule 2."""
        readings: list[Reading] = []
        above, below, position = "", "", 0
        while cue := _CUE.search(text, position):
            position = cue.start("rest")
            clause = _CLAUSE_END.split(text[max(0, cue.start() - _CLAUSE_CHARS) : cue.start()])[-1]
            if _NEGATION.search(clause):
                continue
            reading = self._read_announced(cue["rest"].strip(), label=cue["says"].strip() == ":")
            if reading is not NOTHING:
                if not readings:
                    above, below = text[: cue.start()], text[cue.end() :]
                readings.append(reading)
        if not readings:
            return NOTHING
        # Several options in lines above are the list that was chosen from; a single one is an answer.
        lines_above = {reading for reading in self._read_lines(above.splitlines()) if reading.letter}
        listed = lines_above if len(lines_above) == 1 else ()
        return _agree([*readings, *listed, *self._read_lines(below.splitlines())])

    def _read_announced(self, rest: str, *, label: bool) -> Reading:
        """`label`: a line of the form ``Answer: ...``, where what follows the letter must be its option's text."""
        reading = self._read_line(rest)
        if reading.letter:
            return reading
        stated = _STATED.fullmatch(rest)
        because = stated is not None and stated["extra"][:1].isalpha()
        if stated and stated["letter"] in self.letters and (because or not label) and not rest.endswith("?"):
            # "The answer is B. The dog barks." is B, unless what follows is the text of another option.
            other, _ = self._leading(stated["extra"].strip())
            if other and stated["letter"] not in other:
                return Reading(None, Reason.LETTER_TEXT_CONFLICT)
            return Reading(stated["letter"])
        if reading is not NOTHING:
            return reading if label or reading.failure is Reason.MULTI_LETTER else NOTHING
        by_text = self._with_text(_SENTENCE_END.split(rest)[0])
        return Reading(by_text) if len(by_text) == 1 and not rest.endswith("?") else NOTHING

    def _read_closing_sentence(self, text: str) -> Reading:
        """``(C) Pop rock`` in the last sentence, when no other option's letter is bracketed anywhere."""
        mentions = [mention for mention in _BRACKETED.finditer(text) if mention[1] in self.letters]
        if not mentions:
            return NOTHING
        if len({mention[1] for mention in mentions}) > 1:
            return Reading(None, Reason.MULTI_LETTER)
        last = mentions[-1]
        own, extra = self._leading(text[last.end() :].lstrip(_OPEN_CHARS + ":"))
        if not own:
            return NOTHING
        if last[1] not in own:
            return Reading(None, Reason.LETTER_TEXT_CONFLICT)
        before = _SENTENCE_END.split(text[: last.start()])[-1]
        _, *later = _SENTENCE_END.split(extra)
        if any(part.strip(_CLOSE_CHARS) for part in later) or _NEGATION.search(before) or _denied_or_asked(extra):
            return NOTHING
        if self._names_another(before, last[1]) or self._names_another(extra, last[1]):
            return Reading(None, Reason.MULTI_LETTER)
        return Reading(last[1])

    def _with_text(self, text: str) -> str:
        """Letters of the options whose text this is, e.g. ``"B"``; several only where options repeat a text."""
        key = _key(_strip(text))
        return "".join(letter for letter, other in zip(self.letters, self._keys, strict=True) if key and key == other)

    def _leading(self, text: str) -> tuple[str, str]:
        """Letters of the longest option text that `text` begins with, and what follows it (blank: punctuation)."""
        text = text.lstrip(_OPEN_CHARS)
        best, end = "", 0
        for letter, pattern, key in zip(self.letters, self._patterns, self._keys, strict=True):
            match = pattern.match(text) if key else None
            if match and match.end() >= end:
                best = best + letter if match.end() == end else letter
                end = match.end()
        extra = text[end:]
        return best, extra if extra.strip(_CLOSE_CHARS) else ""

    def _names_another(self, extra: str, letter: str) -> bool:
        """Whether what follows option `letter` names one more: ``... (C)``, ``... or C``, ``... or dog``."""
        named = {capital[1] or capital[2] for capital in _LONE_CAPITAL.finditer(extra)}
        joined = _CONJUNCTION.match(extra)
        also, _ = self._leading(extra[joined.end() :]) if joined else ("", "")
        return bool((named & set(self.letters) | set(also)) - {letter})


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


def _nothing_found(tagged: bool) -> Reason:
    return Reason.NOT_AN_OPTION if tagged else Reason.NO_ANSWER_TAG


def _denied_or_asked(extra: str) -> bool:
    """Whether what follows an option takes it back (``B. cat is wrong``) or makes it a question."""
    return bool(_NEGATION.search(extra)) or extra.rstrip().endswith("?")


def _strip(text: str) -> str:
    """Without outer quotes, opening brackets and closing punctuation."""
    return " ".join(text.split()).lstrip(_OPEN_CHARS).rstrip(_CLOSE_CHARS)


def _key(text: str) -> str:
    """Text to compare by: case does not matter."""
    return text.casefold()
