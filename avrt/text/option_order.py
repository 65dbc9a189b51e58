"""Another order of a question's options: drawn anew in every pass over the data, where no text depends on the order."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace

from avrt.sample import Sample

_CHOICE = r"(?:options?|answers?|choices?|alternatives?)"
# "C-clamp", "9°C", "R&B" and "F#" name no letter of an option.
_LONE_LETTER = re.compile(r"(?<![\w'’°])(?<!R&)[A-Za-z](?![\w'’#]|-\w)", re.ASCII)
# "A" and "I" are words too, unless they are followed by one of these.
_AFTER_LETTER = re.compile(r"\s*(?:$|[.,;:)\]】）!?/&]|(?:and|or|nor|is|are|only)\b)", re.IGNORECASE)
_SMALL_LETTER = re.compile(
    rf"(?<![\w'’])(?:{_CHOICE}\s+\(?)?([a-z])(?:\)|\s*(?:\b(?:and|or|nor)\b|[&/,])\s*\(?[a-z](?![\w'’]))"
    rf"|(?<!\w){_CHOICE}\s+\(?([a-z])(?!\w|\s+[a-z])",
    re.ASCII,
)
_PLACE = re.compile(
    rf"\b(?:first|second|third|fourth|fifth|last|previous|preceding|next|\d(?:st|nd|rd|th))\s+"
    rf"(?:\w+\s+)?{_CHOICE}\b"
    rf"|\b{_CHOICE}\s+(?:above|below|(?:number\s+|no\.\s*)?\(?(?:\d|one\b|two\b|three\b|four\b|five\b))"
    r"|\b(?:the|as|mentioned|listed)\s+above\b(?!\s+the\b)",
    re.IGNORECASE,
)
_OTHERS = re.compile(
    r"\b(?:all|none|both|neither|either|any|each|one|two|three|some|most|several|nothing)\s+(?:\w+\s+)?of\s+"
    r"(?:(?:the|all)\s+)?"
    rf"(?:above|below|following|(?:\w+\s+)?(?:{_CHOICE}|statements?))\b"
    r"|\b(?:all|none|both|neither|either|any|each|one|two|three|some|most|several|nothing)\s+of\s+"
    r"(?:these|those|them|the\s+others?|the\s+rest)(?=\s*(?:$|[.,;:!?)]|(?:is|are)\b))"
    rf"|\b(?:all|both|neither|none|any|either)\s+(?:the\s+|these\s+|those\s+)?(?:above|others?|{_CHOICE})\b"
    r"|\b(?:both|neither|either)\s+\(?\d"
    r"|^\W*(?:all|both|neither|none|either)\W*$"
    r"|\b(?:previous|preceding|next|former|latter)\s+ones?\b|\blisted\b"
    r"|以上[都皆全均的所选選答]|上述|上記|위의"
    r"|\banteriores\b|\bci-dessus\b|\boben genannt|\bprecedenti\b|выше(?:перечисленн|указанн)",
    re.IGNORECASE,
)


def permuted_options(sample: Sample, seed: int, epoch: int) -> Sample:
    """The sample with its options in an order drawn from (seed, epoch, id); the gold option follows.

    All orders are equally likely, and each is drawn without regard to other samples: nothing depends on the number of
    workers or devices. Traces name the letters of the old order, so the sample has none afterwards.

    Returns:
        The sample itself if its order is fixed, see `has_fixed_order`.
    """
    if has_fixed_order(sample):
        return sample

    def draw(option: int) -> bytes:
        return hashlib.sha256(f"options/{seed}/{epoch}/{sample.id}/{option}".encode()).digest()

    order = sorted(range(len(sample.options)), key=draw)
    return replace(
        sample,
        options=tuple(sample.options[option] for option in order),
        answer=order.index(sample.answer),
        trace=None,
        teacher_traces={},
    )


def has_fixed_order(sample: Sample) -> bool:
    """Whether a text of the sample depends on the order of its options, or may.

    An option that refers to others or to a place ("all of the above", "both A and B", "the first option"), that is or
    names a letter of the options, or a question that does ("person A or person B", options listed in the question). In
    doubt the answer is yes: the cost is only that the options keep their order.
    """
    if _names_letter(sample.question, sample.letters) or _PLACE.search(sample.question):
        return True
    return any(
        _names_letter(text, sample.letters) or _PLACE.search(text) or _OTHERS.search(text) for text in sample.options
    )


def _names_letter(text: str, letters: str) -> bool:
    """Whether a text names one of the letters, as "B", "(b)", "a and b" or "option b" do; "a dog" does not."""
    for found in _LONE_LETTER.finditer(text):
        letter = found[0]
        if letter in letters and (letter not in "AI" or _AFTER_LETTER.match(text, found.end())):
            return True
        if len(text.strip()) == 1 and letter.upper() in letters:
            return True
    return any((found[1] or found[2]).upper() in letters for found in _SMALL_LETTER.finditer(text))
