"""Options named by their place in the list: ``the second option``, ``option 2``, ``the last choice``."""

from __future__ import annotations

import re
from collections.abc import Sequence

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")

_WORDS = "|".join(ORDINALS)
_PLACE = re.compile(
    # "The second option is B." may describe the list.
    rf"\bthe\s(?P<word>{_WORDS}|last)\s(?:option|choice)\b(?!\s(?:is|was)\s(?:\W{{0,2}}[A-Z]\b|option))"
    r"|\b(?:option|choice)\s(?:(?:number|no\.)\s|#\s?)?(?P<number>\d{1,2})\b(?![.,:]?\d)",
    re.IGNORECASE,
)
# Words by which only some of the options are still in question: "of the remaining ones, the first option".
_NARROWED = re.compile(
    r"\b(?:remain\w*|either|between|eliminat\w*|exclud\w*|discard\w*|dismiss\w*|narrow\w*|rul(?:e|es|ed|ing)\sout"
    r"|(?:is|are|was|were)\s(?:out|left)|(?:two|three|four|ones|options|choices)\sleft"
    r"|(?:the|of)\sother|(?:first|last|other|these|those|of\sthe)\s(?:two|three|four)|of\s(?:these|those|them)"
    r"|cross(?:ed|ing)?\sout|shortlist\w*)\b",
    re.IGNORECASE,
)
_LETTER = re.compile(r"(?<![\w'])(?:[B-HJ-Z](?![\w'])|[AI](?=\s*(?:[.,;:)\]/&]|(?:or|and|is|are)\b)))")
_AMBIGUOUS = re.compile(rf"\d|\b(?:{_WORDS}|last|options?|choices?)\b", re.IGNORECASE)


def by_letter(texts: Sequence[str]) -> bool:
    """Whether places can be written as letters: no option's text has a number or such words itself."""
    return not any(_AMBIGUOUS.search(text) for text in texts)


def places_as_letters(text: str, letters: str, options: Sequence[str]) -> str:
    """The text with ``option B`` for ``the second option`` and ``option 2``; places that do not exist stay.

    ``the second option`` stays too if the text narrows the list down, or names several of the options but not all: it
    may then be the second of these.

    Args:
        options: the options' texts in lower case.
    """
    if "option" not in text and "choice" not in text and "Option" not in text and "Choice" not in text:
        return text
    whole: bool | None = None

    def named(found: re.Match[str]) -> str:
        nonlocal whole
        if not found["number"]:
            whole = _is_of_all(text, letters, options) if whole is None else whole
            if not whole:
                return found[0]
        return _named(found, letters)

    return _PLACE.sub(named, text)


def _is_of_all(text: str, letters: str, options: Sequence[str]) -> bool:
    if _NARROWED.search(text):
        return False
    lower = text.lower()
    lettered = sum(letter in letters for letter in {found[0] for found in _LETTER.finditer(text)})
    quoted = sum(option in lower for option in options)
    return all(number < 2 or number == len(letters) for number in (lettered, quoted))


def _named(found: re.Match[str], letters: str) -> str:
    if found["number"]:
        place = int(found["number"]) - 1
    else:
        word = found["word"].lower()
        place = len(letters) - 1 if word == "last" else ORDINALS.index(word)
    return f"option {letters[place]}" if 0 <= place < len(letters) else found[0]
