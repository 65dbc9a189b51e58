"""Finding the chosen option in free text, for models that were not trained on the answer tags.

`avrt.text.answers` decides which segment of a reply is the final answer; this module decides which option that segment
names, if any. Every rule is anchored: a letter counts only where it is alone, in front of its own option's text, or
beside words such as "the answer is". A letter inside a sentence ("A man sings") never counts, and a segment that names
two options has no answer.
"""

from __future__ import annotations

import re

from avrt.text import cues, phrases
from avrt.text.announcement_reader import AnnouncementReader
from avrt.text.line_reader import LAST_CHARS, agree, weakened
from avrt.text.normalize import CROSS
from avrt.text.options import CLOSE_CHARS, CONFLICT, NOTHING, OPEN_CHARS, SEVERAL, Reading, Reason
from avrt.text.phrases import SENTENCE_END

_BRACKETED = re.compile(r"[(\[【]\s*([A-Z])\s*[)\]】]")
MIN_WORDS = 3
MAX_ADDING = 3
"""Sentences with ``Actually, `` after an answer that are examined; each is one more reading of the text before it."""
_OPTION_HEADING = re.compile(r"(?:option|choice)\s\W{0,2}[A-Z]\W{0,2}:", re.IGNORECASE)
_ANOTHER_OPTION = re.compile(
    r"\b(?:each|every|any|an|a|one|another|other|first|second|third|next|last|possible|wrong|alternative)"
    r"\s(?:\w+\s){0,2}(?:option|choice|answer)\b",
    re.IGNORECASE,
)
_OPTION_NAMED = re.compile(r"\b(?:option|choice)\s[(\[]?([A-Z])(?!\w)", re.IGNORECASE)


class OptionReader(AnnouncementReader):
    """Finds the one of a question's options that a segment of text names.

    Rules, in order; the first that finds something decides:

    1. a correction (``Wait, no, C.``): only the text after the last one counts, and only if it is an answer by itself
       (``Actually, it is seen at 0:03.`` only adds to the answer before it);
    2. the whole segment, if it is one line: a bare letter (``(b)``, ``【B】``, ``B.``); a letter in front of its own
       option's text (``B. cat``); an option's exact text; a letter and a reason (``B, because ...``); a number
       that is an option (``There are 3.``);
    3. announcements anywhere, unless denied, doubted, asked or conditional: ``Answer: B``, ``the answer is
       B``, ``option B is correct``, ``I choose B``, ``Therefore, B.``, a box; other lines that are only an answer must
       agree. A label ``Answer:`` may have its option on the next line; ``option`` and ``choice`` may not: they
       end headings (``Going through every option:``). A label in the last of many lines outweighs assessments
       (``option A is correct``) and lines with an option's text above it;
    4. single lines that are only an answer by rule 2, and an option named with letter and text in the closing
       sentence (``... the best fit is: *(C) Pop rock*``, ``... which corresponds to option C.``), unless that sentence
       denies it.

    An option's place is its letter (``the second option``, ``option 2``), unless options have numbers in their texts.
    Lines that list all options in order repeat the question, or evaluate each option, and do not count. An answer that
    a later sentence retracts (``I am not sure.``, ``It could also be C.``) does not count either.

    Two different letters within a rule give `Reason.MULTI_LETTER`; a letter whose text is not its option's gives
    `Reason.LETTER_TEXT_CONFLICT`. The running time is linear in the text's length.
    """

    def read(self, segment: str, *, tagged: bool) -> Reading:
        """Read a segment of text after `avrt.text.normalize.clean`.

        Args:
            tagged: the segment was in answer tags, so it was meant as an answer: if nothing is recognized, the failure
                is `Reason.NOT_AN_OPTION`, else `Reason.NO_ANSWER_TAG`.
        """
        if not segment.strip():
            return Reading(None, Reason.EMPTY_ANSWER if tagged else Reason.NO_ANSWER_TAG)
        segment = self.options.with_letters(segment.rstrip())
        segment = segment[:-LAST_CHARS] + phrases.COURTESY.sub("", segment[-LAST_CHARS:])
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
        before, after = self.options.with_letters(before), self.options.with_letters(after)
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
        lower = text.lower()
        if not lower.endswith("no") and not _has_any(lower, phrases.CORRECTION_WORDS):
            return None
        adding = 0
        for match in reversed([*phrases.CORRECTION.finditer(text)]):
            words = match["marker"].rstrip(",;:.!—–…- ")
            if self.options.begins_with(words) or self.options.covers(text, match.start("marker"), words):
                continue  # it may be of an option's text: "B. No", "D. left hand, no"
            if adding < MAX_ADDING and self._only_adds(text, match):
                adding += 1
                continue
            return match.start("marker")
        return None

    def _only_adds(self, text: str, marker: re.Match[str]) -> bool:
        """Whether ``Actually, `` begins a sentence about the answer before it, without another option or a denial."""
        if not phrases.ONLY_ADDS.match(text, marker.start("marker")):
            return False
        tail = text[marker.end("marker") : marker.end("marker") + LAST_CHARS]
        sentence = SENTENCE_END.split(tail, maxsplit=1)[0]
        if phrases.NEGATION.search(sentence) or phrases.DOUBT.search(sentence) or cues.ANSWER_WORD.search(sentence):
            return False
        earlier = self._read_plain(text[: marker.start("marker")]).letter
        return earlier is not None and not (
            self.options.others(sentence + ".", earlier) or self.options.contained(sentence) - {earlier}
        )

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
        announced = self.read_announcements(kept)
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
        if verdict is NOTHING and kept:
            verdict = self._read_last_line(kept[-1], "\n".join(kept))
        return verdict if verdict is not NOTHING or not listed else SEVERAL

    def _read_lone(self, lines: list[str], place: int, *, headed: bool) -> Reading:
        """A line that may be an answer by itself, unless the heading above it only examines an option."""
        if headed and place and phrases.EXAMINES.search(lines[place - 1][-LAST_CHARS:]):
            return NOTHING
        if place + 1 < len(lines) and _OPTION_HEADING.fullmatch(lines[place]):
            return NOTHING
        return self.read_line(lines[place], nothing_after=True)

    def _without_list(self, lines: list[str]) -> list[str]:
        """The lines without those that list all options in order; other lines may be between them.

        Most of a list's lines have their option's own text: a few may be misspelled.
        """
        labels = [(place, letter) for place, line in enumerate(lines) if (letter := self.list_letter(line))]
        dropped: set[int] = set()
        size = len(self.letters)
        for start in range(len(labels) - size + 1):
            run = labels[start : start + size]
            if "".join(letter for _, letter in run) == self.letters:
                with_text = sum(self.label(lines[place]) is not None for place, _ in run)
                if 2 * with_text > size:
                    dropped.update(place for place, _ in run)
        return [line for place, line in enumerate(lines) if place not in dropped]

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
        if _weak(before):
            return NOTHING
        if self.names_another(before, last[1]) or self.names_another(extra, last[1]):
            return SEVERAL
        return Reading(last[1])

    def _read_last_line(self, line: str, text: str) -> Reading:
        """``..., which corresponds to option B.`` and ``... is C. dog.`` at a reply's end."""
        line = line[-2 * LAST_CHARS :]
        refers = list(cues.REFERS_TO.finditer(line))
        if refers and (letter := refers[-1]["letter"] or refers[-1]["bracketed"]) in self.letters:
            start, extra = refers[-1].start(), line[refers[-1].end() :]
            own, more = self.options.leading(extra.lstrip(OPEN_CHARS + CLOSE_CHARS))
            more = more if letter in own else extra
            named = {name.upper() for name in _OPTION_NAMED.findall(text)} | set(_BRACKETED.findall(text))
            words = SENTENCE_END.split(line[:start])[-1]
            alone = named <= {letter} or cues.CONCLUDES.match(words)
            if alone and not more.strip(CLOSE_CHARS) and not _weak(words) and not self.names_another(words, letter):
                return Reading(letter)
        word = cues.LAST_WORD.search(line)
        if word and word[1] in self.letters and len(line.split()) > MIN_WORDS:
            words = SENTENCE_END.split(line[: word.start(1)].rstrip(OPEN_CHARS + CLOSE_CHARS))[-1]
            if not _weak(words) and not self.options.others(line[: word.start(1)], word[1]):
                return Reading(word[1])
        for ending in cues.ENDS_WITH.finditer(line):
            letter = ending[1]
            own, more = self.options.leading(line[ending.end() :])
            if letter in self.letters and letter in own and not more.strip(CLOSE_CHARS):
                words = SENTENCE_END.split(line[: ending.start()])[-1]
                other = self.options.others(line[: ending.start()], letter) or _ANOTHER_OPTION.search(words)
                if not _weak(words) and not other:
                    return Reading(letter)
        return NOTHING


def _has_any(text: str, words: tuple[str, ...]) -> bool:
    """Whether a text has one of the words."""
    for word in words:  # noqa: SIM110 (half the time of `any`)
        if word in text:
            return True
    return False


def _weak(words: str) -> bool:
    """Whether the words before an option in its sentence deny or doubt it, or make it conditional."""
    return bool(phrases.NEGATION.search(words) or phrases.DOUBT.search(words) or phrases.CONDITION.search(words))


def _nothing_found(tagged: bool) -> Reason:
    return Reason.NOT_AN_OPTION if tagged else Reason.NO_ANSWER_TAG
