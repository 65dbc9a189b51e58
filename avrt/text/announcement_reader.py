"""Reading the sentences and labels by which replies announce an option: ``Answer: B``, ``option B is correct``."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Literal, NamedTuple

from avrt.text import cues, phrases
from avrt.text.line_reader import LAST_CHARS, MAX_LATER, LineReader, agree
from avrt.text.normalize import BOX_CLOSE, BOX_OPEN
from avrt.text.options import CLOSE_CHARS, CONFLICT, NOTHING, OPEN, OPEN_CHARS, SEVERAL, WORD, Reading, Reason
from avrt.text.phrases import SENTENCE_END

# The possible beginnings of an option's name.
_BEGINS = re.compile(
    rf"{OPEN}(?:the\s+)?(?:[A-Za-z](?!{WORD})|option|choice|letter|answer|either|both|[A-Z]{{2,8}}\b)",
    re.IGNORECASE,
)
_BOX = re.compile(rf"{BOX_OPEN}([^{BOX_OPEN}{BOX_CLOSE}\n]*){BOX_CLOSE}")
_QUOTED = re.compile(r"([\"'])([^\"'\n]*)\1\s*[,}\]]")
# '{"answer": {"letter": "B"}}'
_NESTED_KEY = re.compile(r"[{\[\s]{0,6}[\"'](?:letter|option|choice|label|id|value)[\"']\s?:\s?")


_HEADING_END, _HEADS = CLOSE_CHARS + "=", ("answer", "is", "be", "to")
MIN_CALCULATION = 3
"""Lines of a calculation before the answer, one of which may be a number that is also an option."""


class Announced(NamedTuple):
    """An announcement in a reply.

    Attributes:
        place: the place of its line.
        end: its end in the line.
        kind: a ``label`` (``Answer: B``, ``the answer is B``), another ``choice`` (``I choose B``), or only an
            ``assessment`` (``option B is correct``), which may be of a statement and not of the answer.
    """

    place: int
    end: int
    reading: Reading
    kind: Literal["label", "choice", "assessment"]


class _LineFinder:
    """Finds words in lines, so that a pattern is only tried where it may match: in most lines it may not."""

    def __init__(self, lines: list[str]) -> None:
        self._text = "\n".join(lines) + "\n"
        self._ends = [*accumulate(len(line) + 1 for line in lines)]
        self._starts = [0, *self._ends]

    def lines_with(self, words: Iterable[str]) -> set[int]:
        """The places of the lines that have one of the words."""
        found = set()
        for word in words:
            position = self._text.find(word)
            while position >= 0:
                place = bisect_right(self._ends, position)
                found.add(place)
                position = self._text.find(word, self._ends[place])
        return found

    def positions(self, words: Iterable[str]) -> dict[int, list[int]]:
        """The positions of the words in each line, in order."""
        found: dict[int, list[int]] = {}
        for word in words:
            position = self._text.find(word)
            while position >= 0:
                place = bisect_right(self._ends, position)
                found.setdefault(place, []).append(position - self._starts[place])
                position = self._text.find(word, position + 1)
        return {place: sorted(set(there)) for place, there in found.items()}


class AnnouncementReader(LineReader):
    """Finds the options that a reply's lines announce."""

    def __init__(self, options: Sequence[str]) -> None:
        super().__init__(options)
        self._announced: dict[tuple[str, bool], Reading] = {}
        self._verdicts: dict[tuple[str, str, bool], Reading] = {}

    def read_announcements(self, lines: list[str]) -> Reading:
        """The option that the announcements and the lines that are only an answer agree on."""
        found = [announced for announced in self._announced_in(lines) if announced.reading is not NOTHING]
        if not found:
            return NOTHING
        last = found[-1]
        # Several options in the lines above are the list to choose from; a single one is an answer. But where a label
        # is the last of many lines, only bare letters count: the others may calculate, discuss or assess.
        labeled = last.kind == "label" and last.place == len(lines) - 1 and len(lines) > MIN_CALCULATION
        if labeled and last.reading.letter:
            found = [announced for announced in found if announced.kind != "assessment"]
        first = found[0]
        lone = [
            NOTHING if labeled and not self.is_bare(line) else self.read_line(line, nothing_after=True)
            for line in lines
        ]
        above = {reading for reading in lone[: first.place] if reading.letter}
        below = lone[first.place + 1 :]
        readings = [announced.reading for announced in found]
        verdict = agree([*readings, *(above if len(above) == 1 else ()), *below])
        if verdict is SEVERAL:
            return self._after_the_turn(lines, found)
        after = self.options.mention(lines[first.place][first.end :]).extra
        return self.unless_retracted(verdict, "\n".join([after, *lines[first.place + 1 :]]))

    def _after_the_turn(self, lines: list[str], found: list[Announced]) -> Reading:
        """The last announcement, if the reply turns against the earlier ones: ``The answer is A. However, ... B.``"""
        last = found[-1]
        earlier = [announced for announced in found if announced.reading != last.reading]
        if not (earlier and last.kind == "label" and last.reading.letter):
            return SEVERAL
        start = earlier[-1]
        if start.place == last.place:
            between = lines[last.place][start.end : last.end]
        else:
            parts = [lines[start.place][start.end :], *lines[start.place + 1 : last.place]]
            between = "\n".join([*parts, lines[last.place][: last.end]])
        turned = phrases.BUT_THEN.search(between) is not None
        rest = [self.read_line(line, nothing_after=True) for line in lines[last.place + 1 :]]
        agreed = agree([last.reading, *rest])
        if not turned or agreed != last.reading or phrases.ALTERNATIVE.search(SENTENCE_END.split(between)[-1]):
            return SEVERAL
        after = self.options.mention(lines[last.place][last.end :]).extra
        return self.unless_retracted(last.reading, "\n".join([after, *lines[last.place + 1 :]]))

    def _announced_in(self, lines: list[str]) -> Iterator[Announced]:
        """The announcements of all lines, in order. Only lines with an announcement's words are searched for it."""
        lower = [lower_case(line) for line in lines]
        find = _LineFinder(lower)
        labels, verdicts = find.positions(cues.LABEL_WORDS), find.lines_with(cues.VERDICT_WORDS)
        cjk = find.lines_with(cues.CJK_WORDS)
        sentences = [
            (announcement, places)
            for announcement in cues.ANNOUNCEMENTS
            if (places := find.positions(announcement.words))
        ]
        boxes = find.lines_with((BOX_OPEN,))
        for place, line in enumerate(lines):
            if place in labels:
                for end, reading in self._labels_in(line, labels[place]):
                    yield Announced(place, end, reading, "label")
            for announcement, places in sentences:
                if place in places:
                    for end, reading in self._sentences_in(line, announcement, places[place]):
                        yield Announced(place, end, reading, announcement.kind)
            if place in verdicts:
                for verdict in _matches(
                    cues.VERDICT, line, _LineFinder([lower[place]]).positions(cues.VERDICT_STARTS).get(0, ())
                ):
                    choice = cues.CHOOSES.search(verdict[0]) is not None
                    reading = self._read_verdict(line, verdict)
                    yield Announced(place, verdict.end(), reading, "choice" if choice else "assessment")
            if place in cjk:
                for verdict in cues.CJK_VERDICT.finditer(line):
                    if verdict["letter"] in self.letters and not blocked(before(line, verdict.start())):
                        yield Announced(place, verdict.end(), Reading(verdict["letter"]), "assessment")
            if place in boxes:
                for box in _BOX.finditer(line):
                    asked = line[box.end() :].lstrip(CLOSE_CHARS).startswith("?")
                    if not asked and not blocked(before(line, box.start())):
                        yield Announced(place, box.end(), self.read_line(box[1].strip()), "label")
            if place + 1 < len(lines) and len(line) < LAST_CHARS and lower[place].rstrip(_HEADING_END).endswith(_HEADS):
                heading = line.strip(OPEN_CHARS + _HEADING_END)
                if cues.ANSWER_HEADING.fullmatch(heading):
                    below = lines[place + 1 : place + 1 + MAX_LATER]
                    reading = NOTHING if blocked(heading) else self._below_heading(below)
                    yield Announced(place, len(line), reading, "label")

    def _labels_in(self, line: str, positions: Iterable[int]) -> Iterator[tuple[int, Reading]]:
        """``Answer: B``, ``the answer is B``. `positions`: where their nouns may be."""
        for cue in _matches(cues.LABEL, line, positions):
            words = before(line, cue.start())
            article = cue["noun"].lower().startswith(cues.AFTER_ARTICLE_A)
            if blocked(words, cue[0]) or (not_chosen(words) and not article):
                continue
            rest = line[cue.end() : cue.end() + LAST_CHARS * 2]
            reading = self._read_announced(rest, label=cue["label"] is not None)
            if reading is NOTHING and cue["adverbs"]:  # an option's text may begin with one
                reading = self._read_announced(cue["adverbs"] + " " + rest, label=False)
            yield cue.end(), reading

    def _sentences_in(
        self, line: str, announcement: cues.Announcement, positions: Iterable[int]
    ) -> Iterator[tuple[int, Reading]]:
        """``I choose B``, ``Therefore, B.`` `positions`: where the announcement's words are."""
        pattern = announcement.pattern
        for cue in pattern.finditer(line) if announcement.anywhere else _matches(pattern, line, positions):
            if blocked(before(line, cue.start())):
                continue
            filler = cues.AFTER_ANNOUNCEMENT.match(line, cue.end())
            end = filler.end() if filler else cue.end()
            rest = line[end : end + LAST_CHARS * 2]
            if announcement.then == "fits":
                mention = self.options.mention(rest)
                fits = cues.FITS.match(mention.extra)
                yield end, self.closed(mention.reading, mention.extra[fits.end() :], verdict=True) if fits else NOTHING
            elif announcement.then == "sentence" or self._is_all(rest):
                yield end, self.stated(rest)

    def _below_heading(self, lines: list[str]) -> Reading:
        """``Answer:`` and the option on the next line; other lines must not begin with another option."""
        reading = self.read_line(lines[0])
        if reading.letter and any(self.label(line) not in (None, reading.letter) for line in lines[1:]):
            return NOTHING
        return reading if reading.letter else NOTHING

    def _read_announced(self, rest: str, *, label: bool) -> Reading:
        """The option after an announcement. `label`: after ``Answer: ...`` only words about a letter may follow it."""
        key = (rest, label)
        if key not in self._announced:
            if label and (nested := _NESTED_KEY.match(rest)):
                rest = rest[nested.end() :]
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
        if reading.letter or reading.failure is Reason.MULTI_LETTER:
            return reading
        explained = self.explained(rest.strip())
        if explained.letter or reading is not NOTHING:
            return explained if explained.letter else reading
        mention = self.options.mention(rest)
        if mention.by_text or phrases.REASON_FOLLOWS.match(mention.extra) or phrases.NOT_THE_OTHER.match(mention.extra):
            return self.closed(mention.reading, mention.extra, verdict=False)
        letter = mention.reading.letter
        return SEVERAL if letter and self.names_another(mention.extra, letter) else NOTHING

    def _read_verdict(self, line: str, verdict: re.Match[str]) -> Reading:
        """``option B is correct``: the words before the verdict must be an option and nothing else."""
        words = before(line, verdict.start())
        after = line[verdict.end() : verdict.end() + LAST_CHARS]
        describes = verdict["describes"] is not None
        key = (words, after, describes)
        if key not in self._verdicts:
            self._verdicts[key] = self._read_option_before(words, after, describes)
        return self._verdicts[key]

    def _read_option_before(self, words: str, after: str, describes: bool) -> Reading:
        # "B. dog is correct": a sentence's end may be within the option.
        ends = [0, *(end.end() for end in SENTENCE_END.finditer(words))][-3:]
        for start in ends:
            part = words[start:]
            for bound in [0, *(bound.end() for bound in cues.BETWEEN_CLAUSES.finditer(part))][-7:]:
                option = part[bound:].strip()
                letter = option.strip(OPEN_CHARS + CLOSE_CHARS)
                if not letter or (len(letter) == 1 and not letter.isupper()):
                    continue
                reading = self.read_line(option, nothing_after=True)
                if reading.letter or reading is CONFLICT:
                    if blocked(words[: start + bound]):
                        return NOTHING
                    if describes:  # "B best describes the scene"
                        end = SENTENCE_END.search(after)
                        described = after[: end.start()] if end else after
                        if self.options.others(described, reading.letter or ""):
                            return SEVERAL
                        if phrases.CONDITION.search(described):
                            return NOTHING
                        after = after[end.start() :] if end else ""
                    return self.closed(reading, after, verdict=True)
        return NOTHING

    def _is_all(self, rest: str) -> bool:
        """Whether an option is the whole first sentence of `rest`."""
        extra = self.options.mention(rest).extra
        return (
            not extra.strip(CLOSE_CHARS)
            or phrases.REASON_FOLLOWS.match(extra) is not None
            or extra.lstrip()[0] in ".。"
        )


def _matches(pattern: re.Pattern[str], line: str, positions: Iterable[int]) -> Iterator[re.Match[str]]:
    """The pattern's matches that begin at the positions and do not overlap."""
    end = 0
    for position in positions:
        if position >= end and (match := pattern.match(line, position)):
            end = match.end()
            yield match


def lower_case(line: str) -> str:
    """A line in lower case, with every character at its place."""
    lower = line.lower()
    return lower if len(lower) == len(line) else "".join(character.lower()[:1] for character in line)


def before(line: str, end: int) -> str:
    """The part of a line before an announcement that is examined."""
    return line[max(0, end - LAST_CHARS) : end]


# Cached, because a reply may repeat itself, and replies of one model are alike.
@lru_cache(maxsize=1024)
def blocked(words: str, cue: str = "") -> bool:
    """Whether the words before an announcement deny or doubt it, or make it conditional."""
    sentence = phrases.CERTAINLY.sub("", phrases.BUT.split(SENTENCE_END.split(words)[-1])[-1])
    clause = phrases.CLAUSE_END.split(sentence)[-1] + cue
    return bool(
        phrases.CONDITION.search(sentence)
        or phrases.DOUBT_AT_FIRST.search(sentence)
        or phrases.NEGATION.search(clause)
        or phrases.DOUBT.search(clause)
    )


@lru_cache(maxsize=1024)
def not_chosen(words: str) -> bool:
    """Whether "option is" after these words discusses an option without choosing it."""
    return cues.NOT_CHOSEN.search(phrases.CLAUSE_END.split(words)[-1]) is not None
