"""Finding the chosen option in free text, for models that were not trained on the answer tags.

`avrt.text.answers` decides which segment of a reply is the final answer; this module decides which option that segment
names, if any. Every rule is anchored: a letter counts only where it is alone, in front of its own option's text, or
beside words such as "the answer is". A letter inside a sentence ("A man sings") never counts, and a segment that names
two options has no answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from avrt.text import phrases
from avrt.text.line_reader import LAST_CHARS, MAX_LATER, LineReader, agree, weakened
from avrt.text.normalize import BOX_CLOSE, BOX_OPEN, CROSS
from avrt.text.options import CLOSE_CHARS, CONFLICT, NOTHING, OPEN, OPEN_CHARS, SEVERAL, Reading, Reason
from avrt.text.phrases import SENTENCE_END

_BRACKETED = re.compile(r"[(\[【]\s*([A-Z])\s*[)\]】]")
# The possible beginnings of an option's name.
_BEGINS = re.compile(
    rf"{OPEN}(?:the\s+)?(?:[^\W\d_](?!\w)|option|choice|letter|answer|either|both|[A-Z]{{2,8}}\b)", re.IGNORECASE
)
_BOX = re.compile(rf"{BOX_OPEN}([^{BOX_OPEN}{BOX_CLOSE}\n]*){BOX_CLOSE}")
_QUOTED = re.compile(r"([\"'])([^\"'\n]*)\1\s*[,}\]]")


class OptionReader(LineReader):
    """Finds the one of a question's options that a segment of text names.

    Rules, in order; the first that finds something decides:

    1. a correction (``Wait, no, C.``): only the text after the last one counts, and only if it is an answer by itself;
    2. the whole segment, if it is one line: a bare letter (``(b)``, ``【B】``, ``B.``); a letter in front of its own
       option's text (``B. cat``); an option's exact text; a letter and a reason (``B, because ...``);
    3. announcements anywhere, unless denied, doubted, asked or conditional: ``Answer: B``, ``the answer is
       B``, ``option B is correct``, ``I choose B``, ``Therefore, B.``, a box; other lines that are only an answer must
       agree. A label ``Answer:`` may have its option on the next line; ``option`` and ``choice`` may not: they
       end headings (``Going through every option:``);
    4. single lines that are only an answer by rule 2, and an option named with letter and text in the closing
       sentence (``... the best fit is: *(C) Pop rock*``), unless that sentence denies it.

    Lines that list all options in order repeat the question, or evaluate each option, and do not count. An answer that
    a later sentence retracts (``I am not sure.``, ``It could also be C.``) does not count either.

    Two different letters within a rule give `Reason.MULTI_LETTER`; a letter whose text is not its option's gives
    `Reason.LETTER_TEXT_CONFLICT`. The running time is linear in the text's length.
    """

    def __init__(self, options: Sequence[str]) -> None:
        super().__init__(options)
        self._announced: dict[tuple[str, bool], Reading] = {}
        self._verdicts: dict[tuple[str, str], Reading] = {}

    def read(self, segment: str, *, tagged: bool) -> Reading:
        """Read a segment of text after `avrt.text.normalize.clean`.

        Args:
            tagged: the segment was in answer tags, so it was meant as an answer: if nothing is recognized, the failure
                is `Reason.NOT_AN_OPTION`, else `Reason.NO_ANSWER_TAG`.
        """
        if not segment.strip():
            return Reading(None, Reason.EMPTY_ANSWER if tagged else Reason.NO_ANSWER_TAG)
        segment = phrases.COURTESY.sub("", segment.rstrip())
        reading = self._read_corrected(segment)
        if reading is NOTHING:
            reading = self._read_plain(segment)
        return reading if reading is not NOTHING else Reading(None, _nothing_found(tagged))

    def with_context(self, reading: Reading, before: str, after: str) -> Reading:
        """A tagged answer in the context of the (cleaned) text around its tags.

        It does not count if the words before it deny or doubt it (``The answer is not <answer>B</answer>``), or if the
        text after it retracts it or names another option; a correction that ends in a clear answer replaces it.
        """
        if not reading.letter:
            return reading
        lead = SENTENCE_END.split(before[-LAST_CHARS:])[-1]
        clause = phrases.CLAUSE_END.split(lead)[-1]
        if len(clause.split()) <= 6 and (
            phrases.NEGATION.search(clause) or phrases.DOUBT.search(clause) or phrases.CONDITION.search(lead)
        ):
            return Reading(None, Reason.NO_ANSWER_TAG)
        if not after.strip(CLOSE_CHARS):
            return reading
        if after.lstrip().startswith(("?", CROSS)):
            return Reading(None, Reason.NO_ANSWER_TAG)
        marker = self._last_correction(after)
        if marker is not None:
            corrected = self._read_tail(after[marker:])
            return corrected if corrected.letter else self.withdrawn(after[marker:], reading.letter)
        also = self._read_plain(after)
        if also.letter not in (None, reading.letter):
            return SEVERAL
        return self.unless_retracted(reading, after)

    # --- rule 1 ---

    def _read_corrected(self, text: str) -> Reading:
        marker = self._last_correction(text)
        if marker is None or not text[:marker].strip(CLOSE_CHARS):
            return NOTHING
        corrected = self._read_tail(text[marker:])
        if corrected.letter:
            return corrected
        earlier = self._read_plain(text[:marker])
        return self.withdrawn(text[marker:], earlier.letter) if earlier.letter else earlier

    def _last_correction(self, text: str) -> int | None:
        """The position of the last correction's marker."""
        found = None
        for match in phrases.CORRECTION.finditer(text):
            # The marker may begin an option's text: "B. No".
            if not self.options.begins_with(match["marker"].rstrip(",;:.!—–…- ")):
                found = match.start("marker")
        return found

    def _read_tail(self, tail: str) -> Reading:
        """A correction from its marker on: ``Wait, no, C.``, ``Actually, the answer is C.``"""
        marker = phrases.CORRECTION.match(tail)
        rest = tail[marker.end() :] if marker else tail
        for _ in range(5):
            filler = phrases.AFTER_CORRECTION.match(rest)
            if not filler or not filler.end():
                break
            rest = rest[filler.end() :]
        line, _, below = rest.partition("\n")
        first = self.stated(line.strip()) if line.strip() else NOTHING
        if first.letter:
            also = self._read_plain(below) if below.strip() else NOTHING
            if also.letter not in (None, first.letter):
                return SEVERAL
            return self.unless_retracted(first, below)
        return self._read_plain(tail)

    # --- rules 2 to 4 ---

    def _read_plain(self, segment: str) -> Reading:
        lines = [line.strip() for line in segment.splitlines() if line.strip(CLOSE_CHARS + OPEN_CHARS)]
        if lines and (greeting := phrases.INTERJECTION.match(lines[0])):
            lines[0] = lines[0][greeting.end() :]
        whole = self.read_line(lines[0]) if len(lines) == 1 else NOTHING
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
            # Without the list, the heading above it no longer belongs to the next line.
            readings = [self._read_lone(kept, place, headed=not listed) for place in range(len(kept))]
            alone = agree(readings)
            if alone.letter:
                first = next(place for place, reading in enumerate(readings) if reading.letter)
                alone = self.unless_retracted(alone, "\n".join(kept[first + 1 :]))
        verdict = agree([alone, self._read_closing_sentence("\n".join(kept))])
        return verdict if verdict is not NOTHING or not listed else SEVERAL

    def _read_lone(self, lines: list[str], place: int, *, headed: bool) -> Reading:
        """A line that may be an answer by itself, unless the heading above it only examines an option."""
        if headed and place and phrases.EXAMINES.search(lines[place - 1][-LAST_CHARS:]):
            return NOTHING
        return self.read_line(lines[place], nothing_after=True)

    def _without_list(self, lines: list[str]) -> list[str]:
        """The lines without those that begin with every option in order; other lines may be between them."""
        labels = [(place, label) for place, line in enumerate(lines) if (label := self.label(line))]
        dropped: set[int] = set()
        size = len(self.letters)
        for start in range(len(labels) - size + 1):
            run = labels[start : start + size]
            if [label for _, label in run] == list(self.letters):
                dropped.update(place for place, _ in run)
        return [line for place, line in enumerate(lines) if place not in dropped]

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
        # Several options in the lines above are the list to choose from; a single one is an answer.
        found_above = [self.read_line(line, nothing_after=True) for line in above]
        letters_above = {reading for reading in found_above if reading.letter}
        place, end = first
        below = [self.read_line(line, nothing_after=True) for line in lines[place + 1 :]]
        verdict = agree([*readings, *(letters_above if len(letters_above) == 1 else ()), *below])
        after = self.options.mention(lines[place][end:]).extra
        return self.unless_retracted(verdict, "\n".join([after, *lines[place + 1 :]]))

    def _announced_in(self, lines: list[str], place: int) -> Iterator[tuple[int, Reading]]:
        """The announcements of a line: for each, its end in the line and its reading."""
        line = lines[place]
        for cue in phrases.CUE.finditer(line):
            if _blocked(_before(line, cue.start()), cue[0]) or _not_chosen(_before(line, cue.start())):
                continue
            rest = line[cue.end() : cue.end() + LAST_CHARS * 2]
            reading = self._read_announced(rest, label=cue["label"] is not None)
            if reading is NOTHING and cue["adverbs"]:  # an option's text may begin with one
                reading = self._read_announced(cue["adverbs"] + " " + rest, label=False)
            yield cue.end(), reading
        for pattern in (phrases.CHOICE, phrases.OPTION_NAMED, phrases.CHINESE_CUE, phrases.CONCLUSION):
            for cue in pattern.finditer(line):
                if not _blocked(_before(line, cue.start())):
                    rest = line[cue.end() : cue.end() + LAST_CHARS * 2]
                    reading = self.stated(rest)
                    if pattern is phrases.CONCLUSION and not self._is_all(rest):
                        reading = NOTHING
                    yield cue.end(), reading
        for verdict in phrases.VERDICT.finditer(line):
            yield verdict.end(), self._read_verdict(line, verdict)
        for box in _BOX.finditer(line):
            if not _blocked(_before(line, box.start())) and not line[box.end() :].lstrip(CLOSE_CHARS).startswith("?"):
                yield box.end(), self.read_line(box[1].strip())
        heading = line.strip(OPEN_CHARS + CLOSE_CHARS + "=")
        ends_so = heading.lower().endswith(("answer", "is")) and len(heading) < LAST_CHARS
        if ends_so and place + 1 < len(lines) and phrases.ANSWER_HEADING.fullmatch(heading):
            below = lines[place + 1 : place + 1 + MAX_LATER]
            yield len(line), NOTHING if _blocked(heading) else self._below_heading(below)

    def _below_heading(self, lines: list[str]) -> Reading:
        """``Answer:`` and the option on the next line; other lines must not begin with another option."""
        reading = self.read_line(lines[0])
        if reading.letter and any(self.label(line) not in (None, reading.letter) for line in lines[1:]):
            return NOTHING
        return reading if reading.letter else NOTHING

    def _read_announced(self, rest: str, *, label: bool) -> Reading:
        """The option after an announcement. `label`: after ``Answer: ...`` only its text may follow a letter."""
        key = (rest, label)
        if key not in self._announced:
            begins = _BEGINS.match(rest) is not None or self.options.leading(rest)[0]
            self._announced[key] = self._read_option_after(rest, label) if begins else NOTHING
        return self._announced[key]

    def _read_option_after(self, rest: str, label: bool) -> Reading:
        if not rest.strip(OPEN_CHARS + CLOSE_CHARS):
            return NOTHING
        if label and (quoted := _QUOTED.match(rest.strip())):
            rest = quoted[2]
        reading = self.read_line(rest.strip())
        if not label:
            stated = self.stated(rest)
            quoted_text = rest.lstrip().startswith(('"', "'")) and stated is CONFLICT
            if reading.letter and not quoted_text:
                return reading
            return stated if stated is not NOTHING or reading.failure is not Reason.MULTI_LETTER else reading
        if reading is not NOTHING:
            return reading
        mention = self.options.mention(rest)
        if mention.by_text or phrases.REASON_FOLLOWS.match(mention.extra) or phrases.NOT_THE_OTHER.match(mention.extra):
            return self.closed(mention.reading, mention.extra, verdict=False)
        return (
            SEVERAL if mention.reading.letter and self.names_another(mention.extra, mention.reading.letter) else NOTHING
        )

    def _read_verdict(self, line: str, verdict: re.Match[str]) -> Reading:
        """``option B is correct``: the words before the verdict must be an option and nothing else."""
        before = _before(line, verdict.start())
        after = line[verdict.end() : verdict.end() + LAST_CHARS]
        key = (before, after)
        if key not in self._verdicts:
            self._verdicts[key] = self._read_option_before(before, after)
        return self._verdicts[key]

    def _read_option_before(self, before: str, after: str) -> Reading:
        # "B. dog is correct": a sentence's end may be within the option.
        ends = [0, *(end.end() for end in SENTENCE_END.finditer(before))][-3:]
        for start in ends:
            part = before[start:]
            for bound in [0, *(bound.end() for bound in phrases.BETWEEN_CLAUSES.finditer(part))][-7:]:
                option = part[bound:].strip()
                letter = option.strip(OPEN_CHARS + CLOSE_CHARS)
                if not letter or (len(letter) == 1 and not letter.isupper()):
                    continue
                reading = self.read_line(option, nothing_after=True)
                if reading.letter or reading is CONFLICT:
                    blocked = _blocked(before[: start + bound])
                    return NOTHING if blocked else self.closed(reading, after, verdict=True)
        return NOTHING

    def _is_all(self, rest: str) -> bool:
        """Whether an option is the whole first sentence of `rest`."""
        extra = self.options.mention(rest).extra
        return (
            not extra.strip(CLOSE_CHARS)
            or phrases.REASON_FOLLOWS.match(extra) is not None
            or extra.lstrip()[0] in ".。"
        )

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
            return NOTHING  # "(B) cat: ...", one option examined
        _, *later = SENTENCE_END.split(extra)
        if any(part.strip(CLOSE_CHARS) for part in later) or weakened(extra, reason=False):
            return NOTHING
        if phrases.NEGATION.search(before) or phrases.DOUBT.search(before) or phrases.CONDITION.search(before):
            return NOTHING
        if self.names_another(before, last[1]) or self.names_another(extra, last[1]):
            return SEVERAL
        return Reading(last[1])


def _before(line: str, end: int) -> str:
    """The part of a line before an announcement that is examined."""
    return line[max(0, end - LAST_CHARS) : end]


# Cached, because a reply may repeat itself, and replies of one model are alike.
@lru_cache(maxsize=1024)
def _blocked(before: str, cue: str = "") -> bool:
    """Whether the words before an announcement deny or doubt it, or make it conditional."""
    sentence = phrases.CERTAINLY.sub("", phrases.BUT.split(SENTENCE_END.split(before)[-1])[-1])
    clause = phrases.CLAUSE_END.split(sentence)[-1] + cue
    return bool(
        phrases.CONDITION.search(sentence)
        or phrases.DOUBT_AT_FIRST.search(sentence)
        or phrases.NEGATION.search(clause)
        or phrases.DOUBT.search(clause)
    )


@lru_cache(maxsize=1024)
def _not_chosen(before: str) -> bool:
    """Whether "option is" after these words discusses an option without choosing it."""
    return phrases.NOT_CHOSEN.search(phrases.CLAUSE_END.split(before)[-1]) is not None


def _nothing_found(tagged: bool) -> Reason:
    return Reason.NOT_AN_OPTION if tagged else Reason.NO_ANSWER_TAG
