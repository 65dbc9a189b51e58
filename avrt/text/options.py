"""A question's options as replies mention them: by letter, by text, or by both."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from avrt.sample import LETTERS
from avrt.text.normalize import BOX_CLOSE, BOX_OPEN, clean


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


class Reading(NamedTuple):
    """The reading of a segment of text: a letter, or the reason why there is none."""

    letter: str | None
    failure: Reason | None = None


NOTHING = Reading(None)
"""The text names no option; later rules may still find one."""
SEVERAL = Reading(None, Reason.MULTI_LETTER)
CONFLICT = Reading(None, Reason.LETTER_TEXT_CONFLICT)

OPEN_CHARS = " \t\"'‘([{【「〔<«_" + BOX_OPEN
CLOSE_CHARS = " \t\"')]}】」〕>»_.,:;!。" + BOX_CLOSE
OPEN = rf"[\s\"'‘(\[{{【「〔<«_{BOX_OPEN}]*"
CLOSE = rf"[\s\"')\]}}】」〕>»_.,:;!。{BOX_CLOSE}]*"
BRACKETS = rf"[\"')\]}}】」〕>»_{BOX_CLOSE}]*"
NAMED = rf"(?:(?:the\s)?(?:(?:(?:my|final|correct)\s){{0,2}}answer|option|choice|letter)\s{{1,3}}{OPEN})?"

_ARTICLE = re.compile(r"(?:a|[Aa]n|[Tt]he)\s+(?=\S)")
_WORD = re.compile(r"[^\W\d_]+")
_LIST_WORDS = frozenset({"and", "or", "either", "both", "option", "options"})
_LETTER = re.compile(rf"{OPEN}(?i:{NAMED})(?P<letter>[A-Z])(?![\w'+#]|-\w){BRACKETS}")
_TEXT_FOLLOWS = re.compile(r"\s*[.:;,)\]=–—-]{0,3}\s*")
_LETTER_FOLLOWS = re.compile(rf"[.!\"')\]]{{0,4}}\s*[(\[【]\s*(?i:option\s+)?([A-Z])\s*[)\]】]{BRACKETS}")
# A capital standing alone; "A" and "I" are words too, unless punctuation or another letter follows.
_LONE_CAPITAL = re.compile(r"(?<![\w'])(?:([B-HJ-Z])(?![\w'])|([AI])(?=\s*(?:$|[.,;:)\]】!?/&]|(?:or|and)\b)))")


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


class Options:
    """The options of one question, for finding them in texts after `avrt.text.normalize.clean`."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.letters = LETTERS[: len(texts)]
        names = [strip(clean(text)) for text in texts]
        self._keys = [name.casefold() for name in names]
        self._names = [
            (letter, len(name), key) for letter, name, key in zip(self.letters, names, self._keys, strict=True)
        ]
        self.has_letters = any(len(key) == 1 and key.isalpha() for key in self._keys)
        # Without their articles, for "the answer is a cat", if the options still differ.
        bare = [_without_article(name) for name in names]
        apart = len({name.casefold() for name in bare}) == len(bare)
        self._bare = [(letter, len(name), name.casefold()) for letter, name in zip(self.letters, bare, strict=True)]
        self._bare = self._bare if apart else []

    def with_text(self, text: str) -> str:
        """Letters of the options whose text this is, e.g. ``"B"``; several only where options repeat a text."""
        text = strip(text)
        key = text.casefold()
        found = "".join(letter for letter, other in zip(self.letters, self._keys, strict=True) if key and key == other)
        if not found and self._bare:
            key = _without_article(text).casefold()
            found = "".join(letter for letter, _, other in self._bare if key and key == other)
        return found

    def leading(self, text: str) -> tuple[str, str]:
        """Letters of the longest option text that `text` begins with, and what follows it (blank: punctuation)."""
        text = text.lstrip(OPEN_CHARS)
        best, end = _longest(text, self._names)
        if not best and self._bare:
            skipped = _ARTICLE.match(text)
            shift = skipped.end() if skipped else 0
            best, end = _longest(text[shift:], self._bare)
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


def _without_article(text: str) -> str:
    return _ARTICLE.sub("", text, count=1) if _ARTICLE.match(text) else text


def _longest(text: str, names: Sequence[tuple[str, int, str]]) -> tuple[str, int]:
    """Letters of the longest name at the beginning of `text`, and its end there."""
    best, end = "", 0
    folded = text[: max((size for _, size, _ in names), default=0) + 1].casefold()
    for letter, size, key in names:
        if not key or size < end or not folded.startswith(key) or not _ends_at(text, size):
            continue
        best, end = (best + letter if size == end else letter), size
    return best, end


def _ends_at(text: str, end: int) -> bool:
    """Whether a name that ends at `end` is complete: ``dog`` is not in ``dogs`` or ``dog-like``, nor 5 in 5.2."""
    after = text[end : end + 2]
    if not after:
        return True
    return not (after[0].isalnum() or after[0] in "_#+%°" or (after[0] in "-.,:/'" and after[1:].isalnum()))
