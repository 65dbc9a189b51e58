"""Reading one line of a reply: whether it is an answer by itself, and whether later text retracts it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from avrt.text import phrases
from avrt.text.options import (
    BRACKETS,
    CLOSE,
    CLOSE_CHARS,
    CONFLICT,
    NAMED,
    NOTHING,
    OPEN,
    SEVERAL,
    Reading,
    Reason,
    options_of,
    several_letters,
)
from avrt.text.phrases import SENTENCE_END

_BARE = re.compile(rf"{OPEN}{NAMED}([A-Za-z])(?:{BRACKETS}{phrases.POLITE})?{CLOSE}", re.IGNORECASE)
_LETTER_THEN_TEXT = re.compile(
    rf"{OPEN}{NAMED}(?P<letter>[A-Za-z])(?P<separator>\s*(?:[)\]}}】」〕.,、:;–—]|-(?!\d))+\s*|\s+)(?P<rest>\S.*)",
    re.IGNORECASE,
)
_LETTER_MARKED = re.compile(rf"{OPEN}{NAMED}([A-Z])\s*(?:[)\]}}】」〕.,、:;–—]|-(?!\d))+\s*(?=\S)", re.IGNORECASE)
# Possible continuations after an option in a sentence that announces it.
_CLOSED = re.compile(rf"\s*(?:{phrases.POLITE}\s*)?(?:$|[;!)\]、。]|[.,](?=[\s\"')\]]|$|[\u3040-\u9fff])|[–—-]\s)")
_CLOSED_VERDICT = re.compile(r"\s*(?:[,–—]|(?:and|while|but|among|of|here|for|in|based)\b)")
_NEW_SENTENCE = re.compile(r"[\"')\]]{0,3}(?:[.!]\s|。)")
_CONJUNCTION = re.compile(
    r"\W*(?:(?:\b(?:or|and|either|maybe|perhaps|possibly|also|then|even)\b|[/&,+])\W*){1,4}", re.IGNORECASE
)
# "(B) seems right": the letter is followed by a predicate, not by another option's text.
_PREDICATE = re.compile(
    r"(?:is|was|are|isn't|seems|looks|sounds|appears|may|might|could|can|cannot|can't|would|will|should|must|has|had|does"
    r"|doesn't|fits|matches|describes|or|and|not|rather)\b",
    re.IGNORECASE,
)
_YES_OR_NO = re.compile(r"[\"'(]{0,2}(?P<word>yes|no)\s?[,.;:!–—-]\s?(?P<rest>\S.*)", re.IGNORECASE)
_YES_OR_NO_LATER = re.compile(r"\b(?:yes|no)\b(?!\s\w)", re.IGNORECASE)
# A whole reply that counts: "There are 3." With a noun behind the number it may be of something else than the question.
_COUNTS = re.compile(
    r"there\s(?:is|are|was|were)\s(?:exactly\s|only\s|a\stotal\sof\s)?(?P<number>\d{1,4}|[a-z]+)\s?[.!]?",
    re.IGNORECASE,
)
# The whole line: in running text "it is B" may be a note.
_IT_IS = re.compile(r"[Ii]t(?:'s|\sis)\s(?:[Oo]ption\s)?[(\[]?([A-Z])[)\]]?[.!]?")
SHORT = 24
"""Characters; no longer line is tried for ``It's B.``"""
MIN_EXPLANATION = 4
"""Words of a sentence after a letter; fewer may be the text of an option that is not in the list."""
LAST_CHARS = 400
"""Characters of a sentence that are examined before an announcement, and of the line after it."""
MAX_LATER = 40
"""Sentences after an answer that are searched for a retraction."""


class LineReader:
    """Reads single lines and statements about one question's options."""

    def __init__(self, options: Sequence[str]) -> None:
        self.options = options_of(tuple(options))
        self.letters = self.options.letters
        self._lines: dict[tuple[str, bool], Reading] = {}

    def withdrawn(self, tail: str, letter: str) -> Reading:
        """The reading of an answer that was corrected without another clear one."""
        return SEVERAL if self.options.others(tail, letter) else Reading(None, Reason.NO_ANSWER_TAG)

    def label(self, line: str) -> str | None:
        """The letter of the option that a line begins with, letter and text; or None."""
        marked = _LETTER_MARKED.match(line)
        letter = marked[1] if marked and marked[1] in self.letters else None
        return letter if marked and letter and letter in self.options.leading(line[marked.end() :])[0] else None

    def list_letter(self, line: str) -> str | None:
        """The letter that a line begins with and that a mark separates from other text, as in a list of the options."""
        marked = _LETTER_MARKED.match(line)
        return marked[1] if marked and marked[1] in self.letters else None

    def is_bare(self, line: str) -> bool:
        """Whether a line is a letter and nothing else."""
        return _BARE.fullmatch(line) is not None

    def read_line(self, line: str, *, nothing_after: bool = False) -> Reading:
        """Rule 2 on one line. `nothing_after`: in one line of many, no words may follow the option's text."""
        # Cached, because a reply may repeat itself.
        key = (line, nothing_after)
        if key not in self._lines:
            self._lines[key] = self._read_new_line(line, nothing_after)
        return self._lines[key]

    def _read_new_line(self, line: str, nothing_after: bool) -> Reading:
        if len(line) < SHORT and (named := _IT_IS.fullmatch(line)) and not self.options.has_letters:
            return Reading(named[1]) if named[1] in self.letters else Reading(None, Reason.NOT_AN_OPTION)
        if not self.options.may_begin(line):
            return NOTHING
        if bare := _BARE.fullmatch(line):
            letter = bare[1].upper()
            if letter in self.letters:
                return Reading(letter)
            by_text = self.options.with_text(line)
            return Reading(by_text) if len(by_text) == 1 else Reading(None, Reason.NOT_AN_OPTION)
        by_text = self.options.with_text(line)
        several = several_letters(line)
        pair = _LETTER_THEN_TEXT.fullmatch(line)
        if pair and pair["letter"].upper() in self.letters:
            with_text = self._read_letter_and_text(pair, by_text, nothing_after)
            again = _LETTER_THEN_TEXT.fullmatch(pair["rest"]) if with_text is CONFLICT else None
            if again and again["letter"].upper() == pair["letter"].upper():  # "B) B) cat"
                with_text = self._read_letter_and_text(again, by_text, nothing_after)
            # Options may be letters themselves (notes): "B. D" is B if that is its text, but "B, D" is a list.
            listed = several and (with_text.failure or "," in pair["separator"])
            if with_text is not NOTHING and (not listed or self.options.leading(pair["rest"])[0]):
                return with_text
        if not by_text and several and several <= set(self.letters):
            if len(several) > 1:
                return SEVERAL
            if not self.options.has_letters:  # "C (C)" may be a letter and a note
                return Reading(several.pop())
        if len(by_text) > 1:
            return SEVERAL
        if by_text:
            return Reading(by_text)
        if self.options.yes_and_no and (word := _YES_OR_NO.match(line)):
            return self._read_yes_or_no(word)
        if not nothing_after and (count := _COUNTS.fullmatch(line)):
            by_number = self.options.counted(count["number"])
            return Reading(by_number) if len(by_number) == 1 else NOTHING
        mention = self.options.mention(line)
        alone = mention.by_text and not mention.extra.strip(CLOSE_CHARS)
        follows = phrases.REASON_FOLLOWS.match(mention.extra) or phrases.NOT_THE_OTHER.match(mention.extra)
        if mention.reading.letter and (alone or follows):
            # "cat (B)", "B (cat)", "B, because it meows".
            return self.closed(mention.reading, mention.extra, verdict=False)
        return mention.reading if mention.reading is CONFLICT and not mention.extra.strip(CLOSE_CHARS) else NOTHING

    def _read_letter_and_text(self, pair: re.Match[str], by_text: str, nothing_after: bool) -> Reading:
        """``B. cat``. `by_text`: letters of the options whose text is the whole line, letter included."""
        letter, marked = pair["letter"].upper(), bool(pair["separator"].strip())
        own, extra = self.options.leading(pair["rest"])
        if letter in own:
            # Without a mark between ("B cat") the letter may be a word ("A dog"): then nothing more may follow.
            if extra and (nothing_after or not marked):
                return NOTHING
            if by_text.strip(letter) or self.names_another(extra, letter):
                return SEVERAL
            return NOTHING if weakened(extra, reason=False) else self.unless_retracted(Reading(letter), extra)
        if not marked or by_text:
            return NOTHING
        if self.options.resembles(letter, pair["rest"]):
            return Reading(letter)
        # "b) because it meows", but not "(a) Because ...", which counts reasons
        if pair["rest"].startswith("because ") and pair.string[:1] != "(" and not nothing_after:
            return self.closed(Reading(letter), " " + pair["rest"], verdict=False)
        if not nothing_after and self.options.contained(pair["rest"]) == {letter}:  # "B. This is a dog."
            explained = self.explained(pair.string)
            return explained if explained.letter else CONFLICT
        sentence = _PREDICATE.match(pair["rest"]) or phrases.REASON_FOLLOWS.match(pair["rest"])
        return CONFLICT if own or not (nothing_after or sentence) else NOTHING

    def _read_yes_or_no(self, word: re.Match[str]) -> Reading:
        """``Yes, the dog is visible.``, where the options are yes and no."""
        reading, rest = Reading(self.options.yes_and_no[word["word"].lower()]), word["rest"]
        contrary = _YES_OR_NO_LATER.search(rest) or phrases.DOUBT.search(rest) or phrases.BUT.search(rest)
        return NOTHING if contrary or "?" in rest else self.unless_retracted(reading, rest)

    def explained(self, line: str) -> Reading:
        """A letter and words about it that name no option: ``B. No other source is audible.``, ``B (the closest)``."""
        pair = _LETTER_THEN_TEXT.fullmatch(line)
        if not pair or not pair["letter"].isupper() or pair["letter"] not in self.letters:
            return NOTHING
        letter, rest = pair["letter"], pair["rest"]
        bracketed = rest.startswith("(") and pair["separator"].isspace()
        if not bracketed and (not pair["separator"].strip() or len(rest.split()) < MIN_EXPLANATION):
            return NOTHING
        first = SENTENCE_END.split(rest, maxsplit=1)[0]
        unclear = (
            phrases.PLACEHOLDER.search(rest)
            or phrases.DOUBT.search(first)
            or phrases.CONDITION.search(first)
            or phrases.WRONG.search(first)
        )
        if unclear or _PREDICATE.match(rest) or rest.rstrip(CLOSE_CHARS).endswith("?"):
            return NOTHING
        if self.options.others(rest, letter) or self.options.contained(rest) - {letter}:
            return NOTHING
        if phrases.NEGATION.search(first) and self.options.contained(first):  # "B. There is no cat."
            return NOTHING
        return self.unless_retracted(Reading(letter), rest)

    def stated(self, rest: str) -> Reading:
        """An option in running text, followed by the end of its sentence or by a reason."""
        mention = self.options.mention(rest)
        return self.closed(mention.reading, mention.extra, verdict=False)

    def closed(self, reading: Reading, extra: str, *, verdict: bool) -> Reading:
        """`reading`, if `extra` ends its sentence without a second option, a condition, doubt or a question."""
        if reading is NOTHING:
            return NOTHING
        letter = reading.letter or ""
        other = phrases.NOT_THE_OTHER.match(extra)
        if other:
            extra = extra[other.end() :]
        if letter and not verdict and self.names_another(extra, letter):
            return SEVERAL
        reason = phrases.REASON_FOLLOWS.match(extra) is not None
        if _NEW_SENTENCE.match(extra):
            return reading  # what the next sentence says is for `unless_retracted`
        if extra.strip() and not reason and not _CLOSED.match(extra) and not (verdict and _CLOSED_VERDICT.match(extra)):
            return NOTHING
        return NOTHING if weakened(extra, reason=reason) else reading

    def unless_retracted(self, reading: Reading, later: str) -> Reading:
        """`reading`, unless a later sentence denies it, doubts it, or offers another option."""
        if not reading.letter or not later.strip(CLOSE_CHARS):
            return reading
        denied = re.compile(
            rf"(?<!\w){reading.letter}[)\]]?\W{{1,3}}(?:is|was|seems)\s+(?:\w+\s+)?(?:wrong|incorrect|false|not\s+(?:right|correct|the))"
        )
        for sentence in SENTENCE_END.split(later, maxsplit=MAX_LATER)[:MAX_LATER]:
            sentence = sentence[:LAST_CHARS].strip()
            if phrases.RETRACTED.search(sentence) or phrases.UNSURE.search(sentence) or denied.search(sentence):
                return self.withdrawn(sentence, reading.letter)
            other = phrases.ALTERNATIVE.search(sentence) or phrases.OTHERWISE.search(sentence)
            offers = other and self.options.others(sentence + ".", reading.letter)
            if offers and not phrases.NEGATION.search(sentence) and not phrases.BUT.search(sentence[1:]):
                return SEVERAL
        return reading

    def names_another(self, extra: str, letter: str) -> bool:
        """Whether the text after option `letter` names another one: ``... (C)``, ``... or C``, ``... or dog``."""
        joined = _CONJUNCTION.match(extra)
        also = self.options.leading(extra[joined.end() :])[0] if joined else ""
        reason = phrases.REASON_FOLLOWS.match(extra) is not None
        named = set() if reason else self.options.others(SENTENCE_END.split(extra, maxsplit=1)[0], letter)
        return bool(named | (set(also) - {letter}))


def agree(readings: Iterable[Reading]) -> Reading:
    """One reading from several: a contradiction or a failure among them invalidates all."""
    found = [reading for reading in readings if reading is not NOTHING]
    letters = {reading.letter for reading in found if reading.letter}
    failures = [reading for reading in found if reading.failure]
    if len(letters) > 1:
        return SEVERAL
    if failures:
        return failures[0]
    return Reading(letters.pop()) if letters else NOTHING


def weakened(extra: str, *, reason: bool) -> bool:
    """Whether the sentence after an option denies it (``B. cat is wrong``), doubts it or asks."""
    sentence = extra.lstrip(CLOSE_CHARS)
    end = SENTENCE_END.search(sentence)
    asked = (sentence[: end.start() + 1] if end else sentence).rstrip(CLOSE_CHARS).endswith("?")
    sentence = sentence[: end.start()] if end else sentence
    if asked or phrases.UNSURE.search(sentence):
        return True
    if reason:
        return False
    return bool(
        phrases.CONDITION.search(sentence) or phrases.NEGATION.search(sentence) or phrases.DOUBT.search(sentence)
    )
