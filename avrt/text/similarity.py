"""Whether a text repeats an option in another notation: other spaces, LaTeX, or a corrected typing error."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Sequence

MAX_CHARS = 400
"""Longer texts are not compared."""
_MIN_WORD, _MIN_RATIO = 5, 0.75
# Greek letters as their LaTeX names.
_SIGNS = {ord("×"): "x"} | {code: unicodedata.name(chr(code)).split()[-1].lower() for code in range(0x3B1, 0x3CA)}
_COMMAND = re.compile(r"\\(?:left|right|text\w*|math\w+|circ|cdot|frac|dfrac|quad|[,;:! ])|\\")
_NOTATION = re.compile(r"[\s$\\{}()\[\]\"'^_;:*]|,(?!\d{3})|\.(?!\d)|degrees?(?![a-z])|°")
_WORD = re.compile(r"[^\W\d_]+|\d+")


def resembles(text: str, option: str, others: Sequence[str]) -> bool:
    """Whether `text` repeats `option`, and none of the `others` as closely.

    Equal but for notation, or as many words of which a few are spelled differently (``deLned``, ``defined``): long
    words that begin alike, so that neither ``not`` and ``now`` nor ``increases`` and ``decreases`` are taken for each
    other.
    """
    if max(len(text), len(option)) > MAX_CHARS:
        return False
    mine, plain = _plain(text), _plain(option)
    if mine == plain:
        return bool(mine)
    words = _WORD.findall(text.casefold())
    misspelled = _misspelled(words, option)
    return 0 < misspelled <= len(words) / 5 and all(
        not 0 <= _misspelled(words, other) <= misspelled for other in others
    )


def _misspelled(words: Sequence[str], option: str) -> int:
    """The number of words that `option` spells differently, or -1 where it has other words."""
    other = _WORD.findall(option[:MAX_CHARS].casefold())
    if len(words) != len(other):
        return -1
    pairs = [(mine, yours) for mine, yours in zip(words, other, strict=True) if mine != yours]
    for mine, yours in pairs:
        if min(len(mine), len(yours)) < _MIN_WORD or mine[0] != yours[0] or not mine.isalpha():
            return -1
        if difflib.SequenceMatcher(None, mine, yours, autojunk=False).ratio() < _MIN_RATIO:
            return -1
    return len(pairs)


def _plain(text: str) -> str:
    plain = unicodedata.normalize("NFKC", text).casefold().translate(_SIGNS).replace(r"\times", "x")
    return _NOTATION.sub("", _COMMAND.sub("", plain))
