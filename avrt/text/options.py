"""A question's options as replies mention them: by letter, by text, or by both."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

from avrt.sample import LETTERS
from avrt.text.normalize import BOX_CLOSE, BOX_OPEN, clean
from avrt.text.positions import by_letter, places_as_letters
from avrt.text.similarity import resembles


class Reason(StrEnum):
    """The outcome of parsing a reply; `avrt.text.answers.parse` explains each value."""

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


REASON_MEANINGS: dict[str, str] = {
    "ok": "right format, one option",
    "empty_think": "no reasoning, or a blank one",
    "no_answer_tag": "no clear answer; where tags are asked for, no complete pair",
    "orphan_close": "a closing tag without its opening tag",
    "unclosed_think": "the reasoning has no closing tag",
    "duplicate_tag": "a tag more than once",
    "trailing_text": "text outside the tags",
    "empty_answer": "a blank answer",
    "multi_letter": "several letters",
    "not_an_option": "not an option's letter",
    "letter_text_conflict": "a letter with another option's text",
    "truncated": "cut by the token limit before the answer",
}
"""Each `Reason` in words, for pages."""


class Reading(NamedTuple):
    """The reading of a segment of text: a letter, or the reason why there is none."""

    letter: str | None
    failure: Reason | None = None


NOTHING = Reading(None)
"""The text names no option; later rules may still find one."""
SEVERAL = Reading(None, Reason.MULTI_LETTER)
CONFLICT = Reading(None, Reason.LETTER_TEXT_CONFLICT)

OPEN_CHARS = " \t\"'‘([{【「『〔《<«_" + BOX_OPEN
CLOSE_CHARS = " \t\"')]}】」』〕》>»_.,:;!。" + BOX_CLOSE
OPEN = rf"[\s\"'‘(\[{{【「『〔《<«_{BOX_OPEN}]*"
CLOSE = rf"[\s\"')\]}}】」』〕》>»_.,:;!。{BOX_CLOSE}]*"
BRACKETS = rf"[\"')\]}}】」』〕》>»_{BOX_CLOSE}]*"
NAMED = rf"(?:(?:the\s)?(?:(?:(?:my|final|correct)\s){{0,2}}answer|option|choice|letter)\s{{1,3}}{OPEN})?"

_CJK = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3"
CJK = re.compile(f"[{_CJK}]")
WORD = rf"[^\W{_CJK}]"
"""A character of a word, except in Chinese, Japanese and Korean, which write a letter without spaces around it."""

_ARTICLE = re.compile(r"(?:a|[Aa]n|[Tt]he)\s+(?=\S)")
_WORD = re.compile(r"[^\W\d_]+")
_FIRST_WORD = re.compile(rf"[\W_]*({WORD}+|[^\W_]*)")
# Words before an option: "the answer B", "option B", "either A or B", "an oboe".
_FIRST_WORDS = frozenset(
    {"the", "my", "final", "correct", "answer", "option", "choice", "letter", "options", "either", "both", "and", "or"}
    | {"a", "an", "yes", "no", "there"}
)
_LIST_WORDS = frozenset({"and", "or", "either", "both", "option", "options"})
_LETTER = re.compile(rf"{OPEN}(?i:{NAMED})(?P<letter>[A-Z])(?!{WORD}|['+#]|-\w){BRACKETS}")
_TEXT_FOLLOWS = re.compile(r"\s*(?:[.:;,)\]=–—]|-(?!\d)){0,3}\s*")
_LETTER_FOLLOWS = re.compile(rf"[.!\"')\]]{{0,4}}\s*[(\[【]\s*(?i:option\s+)?([A-Z])\s*[)\]】]{BRACKETS}")
# A capital standing alone; "A" and "I" are words too, unless punctuation or another letter follows.
_LONE_CAPITAL = re.compile(r"(?<![\w'])(?:([B-HJ-Z])(?![\w'])|([AI])(?=\s*(?:$|[.,;:)\]】!?/&]|(?:or|and)\b)))")


NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


class Mention(NamedTuple):
    """An option named at the beginning of a text.

    Attributes:
        reading: its letter, or the reason why none is clear.
        extra: the text after it.
        by_text: whether the option was named by its text (alone, or with its letter).
    """

    reading: Reading
    extra: str
    by_text: bool


@lru_cache(maxsize=256)
def options_of(texts: tuple[str, ...]) -> Options:
    """The options of one question, which several replies answer."""
    return Options(texts)


class Options:
    """The options of one question, for finding them in texts after `avrt.text.normalize.clean`."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.letters = LETTERS[: len(texts)]
        names = [strip(clean(text)) for text in texts]
        self._keys = [name.casefold() for name in names]
        self._texts = list(texts)
        self._names = _Names(self.letters, names)
        self._by_place = by_letter(names)
        self.has_letters = any(len(key) == 1 and key.isalpha() for key in self._keys)
        words = dict(zip(self._keys, self.letters, strict=True))
        self.yes_and_no = {word: words[word] for word in ("yes", "no")} if {"yes", "no"} <= words.keys() else {}
        # Without their articles, for "the answer is a cat", if the options still differ.
        bare = [_without_article(name) if name[:1] in "aAtT" else name for name in names]
        apart = len({name.casefold() for name in bare}) == len(bare)
        same = bare == names
        self._bare = (self._names if same else _Names(self.letters, bare)) if apart else None
        self._first_words = {_first_word(name).casefold() for name in (names if same else names + bare)} | _FIRST_WORDS

    def with_letters(self, text: str) -> str:
        """The text with letters for places (``the second option``), if no option's text could be meant by these."""
        return places_as_letters(text, self.letters, self._keys) if self._by_place else text

    def counted(self, words: str) -> str:
        """Letters of the options that are this number, in digits or as a word."""
        word = words.casefold()
        if not word.isdigit() and word not in NUMBERS:
            return ""
        other = NUMBERS[int(word)] if word.isdigit() and int(word) < len(NUMBERS) else word
        digits = str(NUMBERS.index(word)) if word in NUMBERS else word
        return "".join(dict.fromkeys(letter for form in (word, other, digits) for letter in self.with_text(form)))

    def covers(self, text: str, start: int, phrase: str) -> bool:
        """Whether the `phrase` at `start` is within an option's text there: the "no" of ``left hand, no``."""
        phrase = phrase.casefold()
        for key in self._keys:
            place = key.find(phrase)
            while place >= 0:
                begin = start - place
                if begin >= 0 and text[begin : begin + len(key)].casefold() == key:
                    return True
                place = key.find(phrase, place + 1)
        return False

    def may_begin(self, line: str) -> bool:
        """Whether a line may begin with an option or its letter; most lines of a reply do not."""
        word = _first_word(line)
        return len(word) <= 1 or word.casefold() in self._first_words or (word.isupper() and word.isascii())

    def with_text(self, text: str) -> str:
        """Letters of the options whose text this is, e.g. ``"B"``; several only where options repeat a text."""
        text = strip(text)
        key = text.casefold()
        found = self._names.equal(key)
        if not found and self._bare:
            found = self._bare.equal(_without_article(text).casefold())
        return found

    def leading(self, text: str) -> tuple[str, str]:
        """Letters of the longest option text that `text` begins with, and what follows it (blank: punctuation)."""
        text = text.lstrip(OPEN_CHARS)
        best, end = self._names.longest(text)
        if not best and self._bare:
            skipped = _ARTICLE.match(text)
            shift = skipped.end() if skipped else 0
            best, end = self._bare.longest(text[shift:])
            end += shift if best else 0
        extra = text[end:]
        return best, extra if extra.strip(CLOSE_CHARS) else ""

    def mention(self, text: str) -> Mention:
        """The option that `text` begins with: ``(B)``, ``option B``, ``B. cat``, ``B (cat)``, ``cat``, ``cat (B)``."""
        by_text, after = self.leading(text)
        named = _LETTER.match(text)
        if named and named["letter"] in self.letters:
            mention = self._lettered(named["letter"], text[named.end() :], by_text, after)
            if mention:
                return mention
        if not by_text:
            return Mention(NOTHING, text, False)
        return self._with_letter_after(by_text, after)

    def _lettered(self, letter: str, extra: str, by_text: str, after: str) -> Mention | None:
        """A mention by letter. `by_text`: options whose text the mention begins with, letter included."""
        separator = _TEXT_FOLLOWS.match(extra)
        own, more = self.leading(extra[separator.end() :]) if separator else ("", "")
        letter_is_text = any(self._keys[LETTERS.index(other)] == letter.casefold() for other in by_text)
        if letter in by_text and (not letter_is_text or not own):  # the option's text begins with its own letter
            return self._with_letter_after(by_text, after)
        if letter in own:
            # "A dog" may be option A with its text, or the text of another.
            return Mention(SEVERAL if by_text and not letter_is_text else Reading(letter), more.lstrip(")]"), True)
        if letter_is_text:  # the notes C, D, E and F: "the answer is D" is the fourth option or the second
            return Mention(CONFLICT, extra, True)
        if by_text:
            return None
        if own and separator and (separator[0].strip() or extra.lstrip().startswith("(")):
            return Mention(CONFLICT, more, True)
        return Mention(Reading(letter), extra, False)

    def _with_letter_after(self, by_text: str, after: str) -> Mention:
        """A mention by text, which a letter in brackets may follow: ``cat (B)``."""
        beside = _LETTER_FOLLOWS.match(after)
        if beside and beside[1] in self.letters:
            reading = Reading(beside[1]) if beside[1] in by_text else CONFLICT
            return Mention(reading, after[beside.end() :], True)
        return Mention(Reading(by_text) if len(by_text) == 1 else SEVERAL, after, True)

    def resembles(self, letter: str, text: str) -> bool:
        """Whether `text` is the text of option `letter` in another notation or with a typing error."""
        place = self.letters.index(letter)
        return resembles(text, self._texts[place], self._texts[:place] + self._texts[place + 1 :])

    def contained(self, text: str) -> set[str]:
        """Letters of the options whose text occurs in `text`, also with an ending (``dog`` in ``dogs``)."""
        folded = text.casefold()
        return {
            letter
            for letter, key in zip(self.letters, self._keys, strict=True)
            if key in folded and re.search(rf"(?<!\w){re.escape(key)}(?!\w{{3}}|[.,:]\d)", folded)
        }

    def begins_with(self, phrase: str) -> bool:
        """Whether an option's text begins with the word or words `phrase`."""
        phrase = phrase.casefold()
        return any(key.startswith(phrase) and not key[len(phrase) :][:1].isalnum() for key in self._keys)

    def others(self, text: str, letter: str) -> set[str]:
        """Options other than `letter` whose letter is alone in `text`."""
        named = {capital[1] or capital[2] for capital in _LONE_CAPITAL.finditer(text)}
        return (named & set(self.letters)) - {letter}


def several_letters(line: str) -> set[str]:
    """The letters of a line that is only a list of them (``A, B``, ``(A) or (C)``, ``AB``); empty for other lines."""
    words = _WORD.findall(line)
    letters = [word.upper() for word in words if len(word) == 1]
    if any(map(str.isdigit, line)):
        return set()
    if len(letters) > 1 and all(len(word) == 1 or word.lower() in _LIST_WORDS for word in words):
        return set(letters)
    return set(line) if line.isascii() and line.isalpha() and line.isupper() and len(line) > 1 else set()


def strip(text: str) -> str:
    """Remove outer quotes, opening brackets and closing punctuation."""
    return " ".join(text.split()).lstrip(OPEN_CHARS).rstrip(CLOSE_CHARS)


def _first_word(text: str) -> str:
    match = _FIRST_WORD.match(text)
    return match[1].rstrip("_") if match else ""


def _without_article(text: str) -> str:
    return _ARTICLE.sub("", text, count=1) if _ARTICLE.match(text) else text


class _Names:
    """Options' names, for finding the longest one that a text begins with."""

    def __init__(self, letters: str, names: Sequence[str]) -> None:
        rows = [(letter, len(name), name.casefold()) for letter, name in zip(letters, names, strict=True) if name]
        self._rows = sorted(rows, key=lambda row: -row[1])
        self._first = {key[0] for _, _, key in rows}
        self._longest = max((size for _, size, _ in rows), default=0)

    def longest(self, text: str) -> tuple[str, int]:
        """Letters of the longest name at the beginning of `text`, and its end there."""
        if text[:1].casefold()[:1] not in self._first:
            return "", 0
        best, end = "", 0
        folded = text[: self._longest + 1].casefold()
        for letter, size, key in self._rows:
            if size < end:
                break
            if folded.startswith(key) and _ends_at(text, size):
                best, end = best + letter, size
        return best, end

    def equal(self, key: str) -> str:
        """Letters of the names that are `key`, a text in lower case."""
        return "".join(letter for letter, _, name in self._rows if name == key)


def _ends_at(text: str, end: int) -> bool:
    """Whether a name that ends at `end` is complete: ``dog`` is not in ``dogs`` or ``dog-like``, nor 5 in 5.2."""
    after = text[end : end + 2]
    if not after:
        return True
    if text[end - 1].isascii() and CJK.match(after):  # "dogです"
        return True
    return not (after[0].isalnum() or after[0] in "_#+%°" or (after[0] in "-.,:/'" and after[1:].isalnum()))
