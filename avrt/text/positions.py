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
_AMBIGUOUS = re.compile(rf"\d|\b(?:{_WORDS}|last|options?|choices?)\b", re.IGNORECASE)


def by_letter(texts: Sequence[str]) -> bool:
    """Whether places can be written as letters: no option's text has a number or such words itself."""
    return not any(_AMBIGUOUS.search(text) for text in texts)


def places_as_letters(text: str, letters: str) -> str:
    """The text with ``option B`` for ``the second option`` and ``option 2``; places that do not exist stay."""
    if "option" not in text and "choice" not in text and "Option" not in text and "Choice" not in text:
        return text
    return _PLACE.sub(lambda found: _named(found, letters), text)


def _named(found: re.Match[str], letters: str) -> str:
    if found["number"]:
        place = int(found["number"]) - 1
    else:
        word = found["word"].lower()
        place = len(letters) - 1 if word == "last" else ORDINALS.index(word)
    return f"option {letters[place]}" if 0 <= place < len(letters) else found[0]
