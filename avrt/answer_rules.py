"""Reading the chosen option out of free text, for models that were never taught the answer tags.

`avrt.answers` decides which stretch of a reply is the final answer; this module decides which option that stretch
names, if any. Every rule is anchored: a letter counts only where it is alone, in front of its own option's text, or
beside words such as "the answer is". A letter inside a sentence ("A man sings") never counts, and a stretch that names
two options names none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from avrt import answer_wording as wording
from avrt.answer_options import (
    CLOSE,
    CLOSE_CHARS,
    CONFLICT,
    NAMED,
    NOTHING,
    OPEN,
    OPEN_CHARS,
    SEVERAL,
    Options,
    Reading,
    Reason,
    several_letters,
)
from avrt.answer_text import BOX_CLOSE, BOX_OPEN, CROSS, clean
from avrt.answer_wording import SENTENCE_END

__all__ = ["OptionReader", "Reading", "Reason", "clean", "several_letters"]

_BARE = re.compile(rf"{OPEN}{NAMED}([A-Za-z]){CLOSE}", re.IGNORECASE)
_LETTER_THEN_TEXT = re.compile(
    rf"{OPEN}{NAMED}(?P<letter>[A-Za-z])(?P<separator>\s*[)\]}}】」〕.,、:;–—-]+\s*|\s+)(?P<rest>\S.*)",
    re.IGNORECASE,
)
_BRACKETED = re.compile(r"[(\[【]\s*([A-Z])\s*[)\]】]")
# What can begin with an option's letter.
_BEGINS = re.compile(
    rf"{OPEN}(?:the\s+)?(?:[^\W\d_](?!\w)|option|choice|letter|answer|either|both|[A-Z]{{2,8}}\b)", re.IGNORECASE
)
_BOX = re.compile(rf"{BOX_OPEN}([^{BOX_OPEN}{BOX_CLOSE}\n]*){BOX_CLOSE}")
_QUOTED = re.compile(r"([\"'])([^\"'\n]*)\1\s*[,}\]]")
# What may follow an option in a sentence that announces it.
_CLOSED = re.compile(r"\s*(?:$|[;!)\]、]|[.,。](?=[\s\"')\]]|$)|[–—-]\s|。)")
_CLOSED_VERDICT = re.compile(r"\s*(?:[,–—]|(?:and|while|but|among|of|here|for|in|based)\b)")
_CONJUNCTION = re.compile(
    r"\W*(?:(?:\b(?:or|and|either|maybe|perhaps|possibly|also|then|even)\b|[/&,+])\W*){1,4}", re.IGNORECASE
)
# "(B) seems right": what follows the letter is a predicate, not another option's text.
_PREDICATE = re.compile(
    r"(?:is|was|are|isn't|seems|looks|sounds|appears|may|might|could|can|cannot|can't|would|will|should|must|has|had|does"
    r"|doesn't|fits|matches|describes|or|and)\b",
    re.IGNORECASE,
)
_LAST_CHARS = 400
"""How far back from an announcement its sentence is looked at, and how much of the line behind it is."""
_MAX_LATER = 40
"""How many sentences behind an answer are searched for its being taken back."""


class OptionReader:
    """Finds which of a question's options a stretch of text names.

    Rules, in order; the first that finds something decides:

    1. a correction (``Wait, no, C.``): only what follows the last one counts, and only if it is an answer by itself;
    2. the whole stretch, when it is one line: a bare letter (``(b)``, ``【B】``, ``B.``); a letter in front of its own
       option's text (``B. cat``); an option's exact text; a letter and a reason (``B, because ...``);
    3. announcements, wherever they are, unless denied, doubted, asked or conditional: ``Answer: B``, ``the answer is
       B``, ``option B is correct``, ``I choose B``, ``Therefore, B.``, a box; other lines that are only an answer must
       agree. A label ``Answer:`` may have its option on the next line, ``option`` and ``choice`` may not: they
       end headings (``Going through every option:``);
    4. single lines that are nothing but an answer by rule 2, and an option named with letter and text in the closing
       sentence (``... the best fit is: *(C) Pop rock*``), unless that sentence denies it.

    Lines that list all options in order are the question repeated, or an evaluation of each; they answer nothing. An
    answer that a later sentence takes back (``I am not sure.``, ``It could also be C.``) is none.

    Two different letters within a rule give `Reason.MULTI_LETTER`; a letter whose text is not its option's gives
    `Reason.LETTER_TEXT_CONFLICT`. The running time is linear in the text's length.
    """

    def __init__(self, options: Sequence[str]) -> None:
        self.options = Options(options)
        self.letters = self.options.letters
        self._lines: dict[tuple[str, bool], Reading] = {}
        self._announced: dict[tuple[str, bool], Reading] = {}
        self._verdicts: dict[tuple[str, str], Reading] = {}

    def read(self, segment: str, *, tagged: bool) -> Reading:
        """Read a stretch of text that went through `clean`.

        `tagged`: it was in answer tags, so something in it was meant as an answer: if nothing is recognized the
        failure is `Reason.NOT_AN_OPTION`, else `Reason.NO_ANSWER_TAG`.
        """
        if not segment.strip():
            return Reading(None, Reason.EMPTY_ANSWER if tagged else Reason.NO_ANSWER_TAG)
        reading = self._read_corrected(segment)
        if reading is NOTHING:
            reading = self._read_plain(segment)
        return reading if reading is not NOTHING else Reading(None, _nothing_found(tagged))

    def amend(self, reading: Reading, before: str, after: str) -> Reading:
        """What a tagged answer is worth, given the (cleaned) text around its tags.

        It is none if the words before it deny or doubt it (``The answer is not <answer>B</answer>``), or if the text
        behind takes it back or names another; a correction that ends in a clear answer replaces it.
        """
        if not reading.letter:
            return reading
        lead = SENTENCE_END.split(before[-_LAST_CHARS:])[-1]
        clause = wording.CLAUSE_END.split(lead)[-1]
        if len(clause.split()) <= 6 and (
            wording.NEGATION.search(clause) or wording.DOUBT.search(clause) or wording.CONDITION.search(lead)
        ):
            return Reading(None, Reason.NO_ANSWER_TAG)
        if not after.strip(CLOSE_CHARS):
            return reading
        if after.lstrip().startswith(("?", CROSS)):
            return Reading(None, Reason.NO_ANSWER_TAG)
        marker = self._last_correction(after)
        if marker is not None:
            corrected = self._read_tail(after[marker:])
            return corrected if corrected.letter else self._withdrawn(after[marker:], reading.letter)
        also = self._read_plain(after)
        if also.letter not in (None, reading.letter):
            return SEVERAL
        return self._unless_taken_back(reading, after)

    def agree(self, one: Reading, other: Reading) -> Reading:
        """The reading of two answers that are joined by "or" or "and"."""
        return SEVERAL if one.letter != other.letter else other

    # --- rule 1 ---

    def _read_corrected(self, text: str) -> Reading:
        marker = self._last_correction(text)
        if marker is None or not text[:marker].strip(CLOSE_CHARS):
            return NOTHING
        corrected = self._read_tail(text[marker:])
        if corrected.letter:
            return corrected
        earlier = self._read_plain(text[:marker])
        return self._withdrawn(text[marker:], earlier.letter) if earlier.letter else earlier

    def _last_correction(self, text: str) -> int | None:
        """Where the last correction's marker begins."""
        found = None
        for match in wording.CORRECTION.finditer(text):
            # The marker may be the beginning of an option's text: "B. No".
            if not self.options.begins_with(match["marker"].rstrip(",;:.!—–…- ")):
                found = match.start("marker")
        return found

    def _read_tail(self, tail: str) -> Reading:
        """A correction, from its marker on: ``Wait, no, C.``, ``Actually, the answer is C.``"""
        marker = wording.CORRECTION.match(tail)
        rest = tail[marker.end() :] if marker else tail
        for _ in range(5):
            filler = wording.AFTER_CORRECTION.match(rest)
            if not filler or not filler.end():
                break
            rest = rest[filler.end() :]
        line, _, below = rest.partition("\n")
        first = self._stated(line.strip()) if line.strip() else NOTHING
        if first.letter:
            also = self._read_plain(below) if below.strip() else NOTHING
            if also.letter not in (None, first.letter):
                return SEVERAL
            return self._unless_taken_back(first, below)
        return self._read_plain(tail)

    def _withdrawn(self, tail: str, letter: str) -> Reading:
        """An answer that was corrected without another clear one."""
        return SEVERAL if self.options.others(tail, letter) else Reading(None, Reason.NO_ANSWER_TAG)

    # --- rules 2 to 4 ---

    def _read_plain(self, segment: str) -> Reading:
        lines = [line.strip() for line in segment.splitlines() if line.strip(CLOSE_CHARS + OPEN_CHARS)]
        whole = self._read_line(lines[0]) if len(lines) == 1 else NOTHING
        if whole.letter:
            return whole
        kept = self._without_list(lines)
        listed = len(kept) < len(lines)
        announced = self._read_announcements(kept)
        if announced is not NOTHING:
            return announced
        if whole is not NOTHING:
            return whole
        alone = NOTHING
        if len(lines) > 1:
            readings = [self._read_line(line, nothing_after=True) for line in kept]
            alone = _agree(readings)
            if alone.letter:
                first = next(place for place, reading in enumerate(readings) if reading.letter)
                alone = self._unless_taken_back(alone, "\n".join(kept[first + 1 :]))
        verdict = _agree([alone, self._read_closing_sentence("\n".join(kept))])
        return verdict if verdict is not NOTHING or not listed else SEVERAL

    def _without_list(self, lines: list[str]) -> list[str]:
        """The lines without those that begin with every option in order; other lines may be between them."""
        labels = [(place, label) for place, line in enumerate(lines) if (label := self._label(line))]
        dropped: set[int] = set()
        size = len(self.letters)
        for start in range(len(labels) - size + 1):
            run = labels[start : start + size]
            if [label for _, label in run] == list(self.letters):
                dropped.update(place for place, _ in run)
        return [line for place, line in enumerate(lines) if place not in dropped]

    def _label(self, line: str) -> str | None:
        """The letter of an option with which, and with its text, a line begins."""
        pair = _LETTER_THEN_TEXT.match(line)
        if not pair or pair["letter"] not in self.letters or not pair["separator"].strip():
            return None
        return pair["letter"] if pair["letter"] in self.options.leading(pair["rest"])[0] else None

    def _read_line(self, line: str, *, nothing_after: bool = False) -> Reading:
        """Rule 2 on one line. `nothing_after`: it is one line of many, so no words may follow the option's text."""
        # A reply that repeats itself is read once.
        key = (line, nothing_after)
        if key not in self._lines:
            self._lines[key] = self._read_new_line(line, nothing_after)
        return self._lines[key]

    def _read_new_line(self, line: str, nothing_after: bool) -> Reading:
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
        mention = self.options.mention(line)
        alone = mention.by_text and not mention.extra.strip(CLOSE_CHARS)
        if mention.reading.letter and (alone or wording.REASON_FOLLOWS.match(mention.extra)):
            # "cat (B)", "B (cat)", "B, because it meows".
            return self._closed(mention.reading, mention.extra, verdict=False)
        return mention.reading if mention.reading is CONFLICT and not mention.extra.strip(CLOSE_CHARS) else NOTHING

    def _read_letter_and_text(self, pair: re.Match[str], by_text: str, nothing_after: bool) -> Reading:
        """``B. cat``. `by_text`: letters of the options whose text is the whole line, letter included."""
        letter, marked = pair["letter"].upper(), bool(pair["separator"].strip())
        own, extra = self.options.leading(pair["rest"])
        if letter in own:
            # Without a mark between ("B cat") the letter may be a word ("A dog"): then nothing more may follow.
            if extra and (nothing_after or not marked):
                return NOTHING
            if by_text.strip(letter) or self._names_another(extra, letter):
                return SEVERAL
            return NOTHING if _weakened(extra, reason=False) else self._unless_taken_back(Reading(letter), extra)
        if not marked or by_text:
            return NOTHING
        sentence = _PREDICATE.match(pair["rest"]) or wording.REASON_FOLLOWS.match(pair["rest"])
        return CONFLICT if own or not (nothing_after or sentence) else NOTHING

    # --- rule 3 ---

    def _read_announcements(self, lines: list[str]) -> Reading:
        readings: list[Reading] = []
        above: list[str] = []
        first: tuple[int, int] | None = None
        for place in range(len(lines)):
            for end, reading in self._announced_in(lines, place):
                if reading is not NOTHING:
                    if first is None:
                        first, above = (place, end), lines[:place]
                    readings.append(reading)
        if first is None:
            return NOTHING
        # Several options in lines above are the list that was chosen from; a single one is an answer.
        found_above = [self._read_line(line, nothing_after=True) for line in above]
        letters_above = {reading for reading in found_above if reading.letter}
        place, end = first
        below = [self._read_line(line, nothing_after=True) for line in lines[place + 1 :]]
        verdict = _agree([*readings, *(letters_above if len(letters_above) == 1 else ()), *below])
        behind = self.options.mention(lines[place][end:]).extra
        return self._unless_taken_back(verdict, "\n".join([behind, *lines[place + 1 :]]))

    def _announced_in(self, lines: list[str], place: int) -> Iterator[tuple[int, Reading]]:
        """What a line announces: for each announcement, where it ends in the line, and its reading."""
        line = lines[place]
        for cue in wording.CUE.finditer(line):
            if _blocked(_before(line, cue.start()), cue[0]) or _not_chosen(_before(line, cue.start())):
                continue
            rest = line[cue.end() : cue.end() + _LAST_CHARS * 2]
            reading = self._read_announced(rest, label=cue["label"] is not None)
            if reading is NOTHING and cue["adverbs"]:  # an option's text may begin with one
                reading = self._read_announced(cue["adverbs"] + " " + rest, label=False)
            yield cue.end(), reading
        for pattern in (wording.CHOICE, wording.CHINESE_CUE, wording.CONCLUSION):
            for cue in pattern.finditer(line):
                if not _blocked(_before(line, cue.start())):
                    rest = line[cue.end() : cue.end() + _LAST_CHARS * 2]
                    reading = self._stated(rest)
                    if pattern is wording.CONCLUSION and not self._is_all(rest):
                        reading = NOTHING
                    yield cue.end(), reading
        for verdict in wording.VERDICT.finditer(line):
            yield verdict.end(), self._read_verdict(line, verdict)
        for box in _BOX.finditer(line):
            if not _blocked(_before(line, box.start())) and not line[box.end() :].lstrip(CLOSE_CHARS).startswith("?"):
                yield box.end(), self._read_line(box[1].strip())
        heading = line.strip(OPEN_CHARS + CLOSE_CHARS + "=")
        ends_so = heading.lower().endswith(("answer", "is")) and len(heading) < _LAST_CHARS
        if ends_so and place + 1 < len(lines) and wording.ANSWER_HEADING.fullmatch(heading):
            below = lines[place + 1 : place + 1 + _MAX_LATER]
            yield len(line), NOTHING if _blocked(heading) else self._below_heading(below)

    def _below_heading(self, lines: list[str]) -> Reading:
        """``Answer:`` and the option on the next line; other lines must not begin with another option."""
        reading = self._read_line(lines[0])
        if reading.letter and any(self._label(line) not in (None, reading.letter) for line in lines[1:]):
            return NOTHING
        return reading if reading.letter else NOTHING

    def _read_announced(self, rest: str, *, label: bool) -> Reading:
        """`label`: a line of the form ``Answer: ...``, where what follows the letter must be its option's text."""
        key = (rest, label)
        if key not in self._announced:
            begins = _BEGINS.match(rest) is not None or self.options.leading(rest)[0]
            self._announced[key] = self._read_option_behind(rest, label) if begins else NOTHING
        return self._announced[key]

    def _read_option_behind(self, rest: str, label: bool) -> Reading:
        if not rest.strip(OPEN_CHARS + CLOSE_CHARS):
            return NOTHING
        if label and (quoted := _QUOTED.match(rest.strip())):
            rest = quoted[2]
        reading = self._read_line(rest.strip())
        if not label:
            stated = self._stated(rest)
            quoted_text = rest.lstrip().startswith(('"', "'")) and stated is CONFLICT
            if reading.letter and not quoted_text:
                return reading
            return stated if stated is not NOTHING or reading.failure is not Reason.MULTI_LETTER else reading
        if reading is not NOTHING:
            return reading
        mention = self.options.mention(rest)
        if mention.by_text or wording.REASON_FOLLOWS.match(mention.extra) or wording.NOT_THE_OTHER.match(mention.extra):
            return self._closed(mention.reading, mention.extra, verdict=False)
        return (
            SEVERAL
            if mention.reading.letter and self._names_another(mention.extra, mention.reading.letter)
            else NOTHING
        )

    def _read_verdict(self, line: str, verdict: re.Match[str]) -> Reading:
        """``option B is correct``: the words before the verdict must be an option and nothing else."""
        before = _before(line, verdict.start())
        after = line[verdict.end() : verdict.end() + _LAST_CHARS]
        key = (before, after)
        if key not in self._verdicts:
            self._verdicts[key] = self._read_option_before(before, after)
        return self._verdicts[key]

    def _read_option_before(self, before: str, after: str) -> Reading:
        # "B. dog is correct": a sentence's end may be within the option.
        ends = [0, *(end.end() for end in SENTENCE_END.finditer(before))][-3:]
        for start in ends:
            part = before[start:]
            for bound in [0, *(bound.end() for bound in wording.BETWEEN_CLAUSES.finditer(part))][-7:]:
                option = part[bound:].strip()
                letter = option.strip(OPEN_CHARS + CLOSE_CHARS)
                if not letter or (len(letter) == 1 and not letter.isupper()):
                    continue
                reading = self._read_line(option, nothing_after=True)
                if reading.letter or reading is CONFLICT:
                    blocked = _blocked(before[: start + bound])
                    return NOTHING if blocked else self._closed(reading, after, verdict=True)
        return NOTHING

    def _stated(self, rest: str) -> Reading:
        """An option in running text, followed by the end of its sentence or by a reason."""
        mention = self.options.mention(rest)
        return self._closed(mention.reading, mention.extra, verdict=False)

    def _closed(self, reading: Reading, extra: str, *, verdict: bool) -> Reading:
        """`reading`, if `extra` ends its statement without a second option, a condition, doubt or a question."""
        if reading is NOTHING:
            return NOTHING
        letter = reading.letter or ""
        other = wording.NOT_THE_OTHER.match(extra)
        if other:
            extra = extra[other.end() :]
        if letter and not verdict and self._names_another(extra, letter):
            return SEVERAL
        reason = wording.REASON_FOLLOWS.match(extra) is not None
        if extra.strip() and not reason and not _CLOSED.match(extra) and not (verdict and _CLOSED_VERDICT.match(extra)):
            return NOTHING
        return NOTHING if _weakened(extra, reason=reason) else reading

    def _is_all(self, rest: str) -> bool:
        """Whether an option is the whole first sentence of `rest`."""
        extra = self.options.mention(rest).extra
        return (
            not extra.strip(CLOSE_CHARS)
            or wording.REASON_FOLLOWS.match(extra) is not None
            or extra.lstrip()[0] in ".。"
        )

    def _unless_taken_back(self, reading: Reading, later: str) -> Reading:
        """`reading`, unless a later sentence denies it, doubts it, or offers another option."""
        if not reading.letter or not later.strip(CLOSE_CHARS):
            return reading
        denied = re.compile(
            rf"(?<!\w){reading.letter}[)\]]?\W{{1,3}}(?:is|was|seems)\s+(?:\w+\s+)?(?:wrong|incorrect|false|not\s+(?:right|correct|the))"
        )
        for sentence in SENTENCE_END.split(later, maxsplit=_MAX_LATER)[:_MAX_LATER]:
            sentence = sentence[:_LAST_CHARS]
            if wording.TAKEN_BACK.search(sentence) or wording.UNSURE.search(sentence) or denied.search(sentence):
                return self._withdrawn(sentence, reading.letter)
            offers = wording.ALTERNATIVE.search(sentence) and self.options.others(sentence + ".", reading.letter)
            if offers and not wording.NEGATION.search(sentence) and not wording.BUT.search(sentence[1:]):
                return SEVERAL
        return reading

    # --- rule 4 ---

    def _read_closing_sentence(self, text: str) -> Reading:
        """``(C) Pop rock`` in the last sentence, when no other option's letter is bracketed anywhere."""
        mentions = [mention for mention in _BRACKETED.finditer(text) if mention[1] in self.letters]
        if not mentions:
            return NOTHING
        if len({mention[1] for mention in mentions}) > 1:
            return SEVERAL
        last = mentions[-1]
        own, extra = self.options.leading(text[last.end() :].lstrip(OPEN_CHARS + ":"))
        if not own:
            return NOTHING
        if last[1] not in own:
            return CONFLICT
        before = SENTENCE_END.split(text[: last.start()])[-1]
        if not before.strip(OPEN_CHARS) and extra.lstrip(" )].!?\"'").startswith(":"):
            return NOTHING  # "(B) cat: ...", one option looked at
        _, *later = SENTENCE_END.split(extra)
        if any(part.strip(CLOSE_CHARS) for part in later) or _weakened(extra, reason=False):
            return NOTHING
        if wording.NEGATION.search(before) or wording.DOUBT.search(before) or wording.CONDITION.search(before):
            return NOTHING
        if self._names_another(before, last[1]) or self._names_another(extra, last[1]):
            return SEVERAL
        return Reading(last[1])

    def _names_another(self, extra: str, letter: str) -> bool:
        """Whether what follows option `letter` names one more: ``... (C)``, ``... or C``, ``... or dog``."""
        joined = _CONJUNCTION.match(extra)
        also = self.options.leading(extra[joined.end() :])[0] if joined else ""
        reason = wording.REASON_FOLLOWS.match(extra) is not None
        named = set() if reason else self.options.others(SENTENCE_END.split(extra, maxsplit=1)[0], letter)
        return bool(named | (set(also) - {letter}))


def _agree(readings: Iterable[Reading]) -> Reading:
    """One reading out of several: a contradiction or a failure among them spoils all."""
    found = [reading for reading in readings if reading is not NOTHING]
    letters = {reading.letter for reading in found if reading.letter}
    failures = [reading for reading in found if reading.failure]
    if len(letters) > 1:
        return SEVERAL
    if failures:
        return failures[0]
    return Reading(letters.pop()) if letters else NOTHING


def _before(line: str, end: int) -> str:
    """What of a line is looked at before an announcement."""
    return line[max(0, end - _LAST_CHARS) : end]


# A reply that repeats itself asks the same again and again; so do many replies of one model.
@lru_cache(maxsize=1024)
def _blocked(before: str, cue: str = "") -> bool:
    """Whether the words before an announcement deny or doubt it, or make it depend on a condition."""
    sentence = wording.BUT.split(SENTENCE_END.split(before)[-1])[-1]
    clause = wording.CLAUSE_END.split(sentence)[-1] + cue
    return bool(
        wording.CONDITION.search(sentence)
        or wording.DOUBT_AT_FIRST.search(sentence)
        or wording.NEGATION.search(clause)
        or wording.DOUBT.search(clause)
    )


@lru_cache(maxsize=1024)
def _not_chosen(before: str) -> bool:
    """Whether "option is" behind these words speaks of an option without choosing it."""
    return wording.NOT_CHOSEN.search(wording.CLAUSE_END.split(before)[-1]) is not None


def _nothing_found(tagged: bool) -> Reason:
    return Reason.NOT_AN_OPTION if tagged else Reason.NO_ANSWER_TAG


def _weakened(extra: str, *, reason: bool) -> bool:
    """Whether the sentence that an option is in takes it back (``B. cat is wrong``), doubts it or asks."""
    sentence = extra.lstrip(CLOSE_CHARS)
    end = SENTENCE_END.search(sentence)
    asked = (sentence[: end.start() + 1] if end else sentence).rstrip(CLOSE_CHARS).endswith("?")
    sentence = sentence[: end.start()] if end else sentence
    if asked or wording.UNSURE.search(sentence):
        return True
    if reason:
        return False
    return bool(
        wording.CONDITION.search(sentence) or wording.NEGATION.search(sentence) or wording.DOUBT.search(sentence)
    )
