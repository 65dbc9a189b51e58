r"""Normalization of replies and option texts before they are compared.

Options and replies go through the same `clean`, so it drops the same characters on both sides. Every step is linear in
the text's length.
"""

from __future__ import annotations

import re
import unicodedata

BOX_OPEN, BOX_CLOSE = "⟦", "⟧"
r"""`clean` puts these around the contents of LaTeX's ``\boxed{}``, in which replies give their answer."""

CROSS = "❌"
"""The mark for "this is wrong": its variants become this one, and marks of approval are dropped."""

# NFKC sorts runs of combining marks in quadratic time, so it gets them in pieces.
_NON_ASCII = re.compile(r"[\x00-\x7f]?[^\x00-\x7f]{1,64}")
# Zero-width characters, joiners, direction marks, byte order marks, variation selectors, halves of surrogate pairs.
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\ufffd\ud800-\udfff\u20e3]")
_EMOJI = re.compile("[\u2600-\u274b\u274d\u274f-\u2752\u2756-\u27bf\u2b00-\u2bff\U0001f000-\U0001faff]")
_MINUS = re.compile(r"–(?=\d)")
_SAME = {
    **dict.fromkeys("✖✗✘❎🚫👎", CROSS),
    **dict.fromkeys("❓❔", "?"),
    **dict.fromkeys("’‘＇", "'"),
    **dict.fromkeys("“”", '"'),
    "−": "-",
    "🅰": "A",
    "🅱": "B",
    BOX_OPEN: " ",
    BOX_CLOSE: " ",
}
_SAME_CHARACTERS = re.compile("[" + "".join(_SAME) + "]")

_STYLE = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|up)?|math(?:rm|bf|it|sf|tt|bb)|bm|boldsymbol|underline|emph|mbox)\s{0,3}\{([^{}]*)\}"
)
_BOXED = re.compile(r"\\(?:boxed|fbox|framebox)\s{0,3}\{([^{}]*)\}|\\boxed\s{1,3}([A-Z])(?!\w)")
_DOUBLE_BRACES = re.compile(r"\{\s{0,3}\{([^{}]*)\}\s{0,3}\}")
_SPACING = re.compile(r"\\(?:[,;:! ]|q?quad\b)")
_MATH_BRACKET = re.compile(r"\\([()\[\]])")
# Not before a digit: "$5" is a price.
_DOLLARS = re.compile(r"\${1,2}[ ]?([^$\n\d\s][^$\n]{0,200})\${1,2}")
# An opening sign without its closing one: "Answer: $C".
_DOLLAR_BEFORE_LETTER = re.compile(r"\$(?=[A-Z](?!\w))")
_STRUCK_OUT = re.compile(r"~~[^~\n]{1,200}~~")
_LINE_BREAK = re.compile(r"<br\s{0,3}/?>|</(?:p|div|li)>", re.IGNORECASE)
_HTML = re.compile(r"</?(?:b|i|u|em|strong|p|span|code|div|li|ul|ol)>")  # not <B>, which may be an answer
# Most options: nothing of what `clean` changes.
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9 ,.'()%:;/?!\"-]*")
_BLANKS = re.compile(r"[ \t]{2,}")
_EMPHASIS = re.compile(r"__+|==+")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f]")
_LINE_MARKER = re.compile(r"^[ \t]*(?:(?:#{1,6}|>|[-+•▪◦●–—→]|\[[xX]\])[ \t]+){1,3}|^#{1,6}(?=\w)", re.MULTILINE)
# "1. (B) dog": a number before an option's label.
_NUMBERING = re.compile(r"^[ \t]*\d{1,2}[.)][ \t]+(?=[(\[]?[A-Z][)\].:])", re.MULTILINE)
_TABLE_ROW = re.compile(r"^[ \t]*\|(.*)\|[ \t]*$", re.MULTILINE)


def unify(text: str) -> str:
    """NFKC in linear time: full-width and other compatibility characters become their plain form."""
    if text.isascii():
        return text
    return _NON_ASCII.sub(lambda run: unicodedata.normalize("NFKC", run[0]), text)


def clean(text: str) -> str:
    r"""The form of a text in which replies and options are compared.

    Unifies look-alike characters and quotes; drops invisible characters, emoji, Markdown and HTML emphasis, bullets,
    heading signs and LaTeX styles; marks the contents of ``\boxed{}``; writes a table's row as ``first : second``.
    """
    if _PLAIN.fullmatch(text) and "  " not in text:
        return text
    if not text.isascii():
        text = _SAME_CHARACTERS.sub(lambda sign: _SAME[sign[0]], _INVISIBLE.sub("", text))
        text = _MINUS.sub("-", _EMOJI.sub("", unify(text)))
    if "\\" in text:
        text = _plain_latex(text)
    if "$" in text:
        text = _DOLLAR_BEFORE_LETTER.sub("", _DOLLARS.sub(r"\1", text))
    if "<" in text:
        text = _HTML.sub("", _LINE_BREAK.sub("\n", text))
    if "~~" in text:
        text = _STRUCK_OUT.sub("", text)
    text = _CONTROL.sub("", text.replace("*", "").replace("`", ""))
    if "__" in text or "==" in text:
        text = _EMPHASIS.sub("", text)
    if "|" in text:
        text = _TABLE_ROW.sub(lambda row: row[1].strip().replace("|", ":"), text)
    text = _NUMBERING.sub("", _LINE_MARKER.sub("", text))
    return _BLANKS.sub(" ", text) if "  " in text or "\t" in text else text


def _plain_latex(text: str) -> str:
    text = _DOUBLE_BRACES.sub(r"{\1}", _SPACING.sub(" ", text))
    for _ in range(3):  # styles within styles
        plain = _STYLE.sub(r"\1", text)
        if plain == text:
            break
        text = plain
    return _MATH_BRACKET.sub(r"\1", _BOXED.sub(rf"{BOX_OPEN}\1\2{BOX_CLOSE}", text))
