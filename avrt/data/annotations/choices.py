"""Options and gold answers, in the ways in which data sets write them."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass
from typing import Any, Literal

from avrt.data.annotations.rows import RowError, RowReason
from avrt.files.json_text import decode_json
from avrt.sample import LETTERS
from avrt.text.answers import answer_body
from avrt.text.option_labels import unlabeled

AnswerBase = Literal[0, 1, "letter"]
"""How gold answers are written, where it must be said: numbers from 0 or 1, or letters."""

_LABEL = re.compile(r"^[ \t]*\(?([A-Z])[ \t]*[.):][ \t]*", re.MULTILINE)
_INLINE_LABEL = re.compile(r"(?:^|(?<=\s))\(?([A-Z])[ \t]*[.):]\s+")
_HEADER = re.compile(r"\s*(?:options|choices|candidates|select from|choose from)?\s*[:：]?\s*$", re.IGNORECASE)
_LETTER = re.compile(r"\(?([A-Za-z])\)?[.:]?")
_LABELED = re.compile(r"\(?([A-Z])[.):]\s*(.+)", re.DOTALL)
_NUMBER = re.compile(r"(\d+)(?:\.0+)?")
_QUOTED = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_ARRAY = re.compile(rf"\[\s*{_QUOTED}(?:\s+{_QUOTED})+\s*\]")
"""An array of texts as numpy prints it: without commas."""

_SEVERAL = re.compile(r"\(?[A-Z][.)]?(\s*(?:[,;/&]|and)\s*\(?[A-Z][.)]?)+|[A-Z]{2,}")


@dataclass(frozen=True)
class Options:
    """The options of a question.

    Attributes:
        texts: without their letters.
        given: as the file has them.
    """

    texts: tuple[str, ...]
    given: tuple[str, ...]


def read_options(value: Any) -> Options:
    """Options from a list, a dict ``{"A": "dog", "B": "cat"}``, a text of labeled lines, or a list written as text.

    Null and numbers become their JSON text ("null", "3"). Options that all begin with their own letter lose it,
    because prompts add it.

    Raises:
        RowError: there are none to read, or not 2 to 26, or some have letters and others do not.
    """
    if isinstance(value, str):
        value = _from_text(value)
    if isinstance(value, dict):
        value = _from_dict(value)
    if not isinstance(value, list | tuple):
        raise RowError(
            RowReason.BAD_OPTIONS,
            f"the options must be a list, a dict from letters to texts, or lines such as 'A. dog', got {value!r}",
        )
    given = tuple(option if isinstance(option, str) else json.dumps(option, default=str) for option in value)
    if not 2 <= len(given) <= len(LETTERS):
        raise RowError(RowReason.BAD_OPTIONS, f"needs 2 to {len(LETTERS)} options, got {len(given)}: {list(given)}")
    try:
        return Options(unlabeled(given), given)
    except ValueError as error:
        raise RowError(RowReason.BAD_OPTIONS, str(error)) from error


def _from_text(text: str) -> Any:
    stripped = text.strip()
    if _ARRAY.fullmatch(stripped):
        return [ast.literal_eval(item) for item in re.findall(_QUOTED, stripped)]
    if stripped[:1] in ("[", "{"):
        # Cells of CSV files hold lists as JSON, or as pandas prints them.
        for parse in (decode_json, ast.literal_eval):
            try:
                return parse(stripped)
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                continue
    return _labeled_parts(text) or text


def _from_dict(options: dict[Any, Any]) -> Any:
    # In a table, a question without an option D has a null there.
    present = {str(key).strip(" .():").upper(): text for key, text in options.items() if text is not None}
    letters = sorted(present)
    if not letters or letters != list(LETTERS[: len(letters)]):
        return options
    return [present[letter] for letter in letters]


def _labeled_parts(text: str) -> list[str] | None:
    """Options of a text that begins with ``A.``, on lines of their own or in one line; None for any other text."""
    for pattern in (_LABEL, _INLINE_LABEL):
        begins = _label_run(pattern, text)
        if len(begins) >= 2 and not text[: begins[0][0]].strip():
            return _without_separator(_between(begins, text))
    return None


def _between(begins: list[tuple[int, int]], text: str) -> list[str]:
    """The texts after labels, each up to the next one."""
    ends = [begin for begin, _ in begins[1:]] + [len(text)]
    return [text[after:end].strip() for (_, after), end in zip(begins, ends, strict=True)]


def _without_separator(options: list[str]) -> list[str]:
    """Options of one text without the comma or semicolon between them, if all but the last end in it."""
    ending = options[0][-1:]
    if ending not in (",", ";") or not all(option.endswith(ending) for option in options[:-1]):
        return options
    return [option.removesuffix(ending).strip() for option in options]


def _label_run(pattern: re.Pattern[str], text: str) -> list[tuple[int, int]]:
    """Where the labels A, B, C ... begin and end, as long as they come in order."""
    found: list[tuple[int, int]] = []
    for match in pattern.finditer(text):
        if len(found) < len(LETTERS) and match[1] == LETTERS[len(found)]:
            found.append((match.start(), match.end()))
    return found


def split_question(text: str) -> tuple[str, list[str]] | None:
    """A question and the options that follow in the same text, on lines ``A. dog``; None where there are none.

    Lines after the last option are an instruction ("Answer with the letter."), which prompts replace; they are left
    away.
    """
    begins = _label_run(_LABEL, text)
    if len(begins) < 2:
        return None
    question = _HEADER.sub("", text[: begins[0][0]]).strip()
    options = _between(begins, text)
    options[-1] = options[-1].partition("\n")[0].strip()
    return (question, options) if question else None


def gold_index(answer: Any, options: Options, base: AnswerBase | None = None, *, untyped: bool = False) -> int:
    """The index of the gold option, from 0.

    The answer is an option's text, its letter, its number, or one of them in an answer tag. A text that is an option
    goes before a letter, unless the options came with letters; then an answer that could be either is refused.

    Args:
        base: number of the first option, 0 or 1; None for 0. A number written as text ("2") counts as a number only
            where this is given. ``letter``: every answer is a letter, also where an option's text is one.
        untyped: whether all values are texts (CSV), so that "2" counts as a number anyway.

    Raises:
        RowError: the answer is none of the options, or several.
    """
    if isinstance(answer, list | tuple):
        if len(answer) != 1:
            raise RowError(RowReason.SEVERAL_ANSWERS, f"the gold answer {answer!r} is not exactly one option")
        answer = answer[0]
    if isinstance(answer, float) and answer.is_integer():
        answer = int(answer)
    if isinstance(answer, int) and not isinstance(answer, bool) and base != "letter":
        return _by_number(answer, options, base)
    listing = ", ".join(repr(option) for option in options.texts)
    if base == "letter":
        letter = _LETTER.fullmatch(_untagged(answer)) if isinstance(answer, str) else None
        if letter is None or letter[1].upper() not in LETTERS[: len(options.texts)]:
            raise RowError(RowReason.BAD_ANSWER, f"the gold answer {answer!r} is not a letter of the options {listing}")
        return LETTERS.index(letter[1].upper())
    advice = "give an option's text, its letter, or its index from 0 as a number"
    if isinstance(answer, str):
        text = _untagged(answer)
        found = _by_text(text, options)
        if found is not None:
            return found
        number = _NUMBER.fullmatch(text)
        if number and (untyped or base is not None):
            return _by_number(int(number[1]), options, base)
        if number:
            advice += "; if it is the option's number, give --answer-base 0 or 1"
        if _SEVERAL.fullmatch(text) and set(re.findall("[A-Z]", text)) <= set(LETTERS[: len(options.texts)]):
            raise RowError(
                RowReason.SEVERAL_ANSWERS, f"the gold answer {text!r} names several options; a question needs one"
            )
    raise RowError(
        RowReason.BAD_ANSWER,
        f"the gold answer {answer!r} is not one of the options {listing}; {advice}",
    )


def _untagged(answer: str) -> str:
    if "<answer>" not in answer:
        return answer.strip()
    body = answer_body(answer)
    if not body:
        raise RowError(RowReason.BAD_ANSWER, f"the gold answer {answer[-80:]!r} has no single answer in its tags")
    return body


def _by_number(number: int, options: Options, base: AnswerBase | None) -> int:
    count, first = len(options.texts), 1 if base == 1 else 0
    if first <= number < first + count:
        return number - first
    advice = f"; indices begin at {first}"
    if base is None and number == count:
        advice += "; if this file counts from 1, give --answer-base 1"
    raise RowError(RowReason.BAD_ANSWER, f"the gold answer {number} is not an index of the {count} options{advice}")


def _by_text(text: str, options: Options) -> int | None:
    letter = _LETTER.fullmatch(text)
    index = LETTERS.index(letter[1].upper()) if letter else len(options.texts)
    by_letter = index if index < len(options.texts) else None
    if by_letter is not None and options.given != options.texts:
        if any(option == text for other, option in enumerate(options.texts) if other != by_letter):
            raise RowError(
                RowReason.BAD_ANSWER, f"the gold answer {text!r} is the letter of one option and the text of another"
            )
        return by_letter
    if options.texts.count(text) == 1:
        return options.texts.index(text)
    for texts in (options.texts, options.given):
        for same in (str, str.strip, _folded) if by_letter is None else (str, str.strip):
            matches = [place for place, option in enumerate(texts) if same(option) == same(text)]
            if len(matches) == 1:
                return matches[0]
            if matches:
                raise RowError(
                    RowReason.BAD_ANSWER, f"the gold answer {text!r} is more than once among the options {texts}"
                )
    labeled = _LABELED.fullmatch(text)
    if labeled and labeled[1] in LETTERS[: len(options.texts)]:
        place = LETTERS.index(labeled[1])
        if _folded(options.texts[place]) == _folded(labeled[2]):
            return place
    return by_letter


def _folded(text: str) -> str:
    return text.strip().casefold()
