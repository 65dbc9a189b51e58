"""The corpus of replies: every form of `reply_forms.txt` filled in for option sets of 2 to 10 options.

A line of the file is ``+ form`` (a careful person is sure that the reply chooses the intended option), ``- form`` (not
sure, so the parser must not choose), or ``+cut``/``-cut`` for a reply that the token limit ended. ``# name`` begins a
group. In a form, ``↵`` is a line break, ``@L`` and ``@T`` are the intended option's letter and text (``@l``: lower
case), ``@M`` and ``@U`` those of another option, and the other words in `_blocks` and `CHARACTERS` stand for the
options as a list, a table and so on, and for characters that cannot be seen. A form that ends in a name of `OWN_SETS`
is about those options only.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from avrt.sample import LETTERS
from avrt.text.answers import parse

FILE = Path(__file__).with_name("reply_forms.txt")

SETS: tuple[tuple[str, ...], ...] = (
    ("dog", "cat"),
    ("Barking", "Rain", "Speech"),
    ("dog", "cat", "bird", "horse"),
    ("A dog", "A cat", "A man is singing", "The crowd cheers, then claps"),
    ("1", "2", "3", "4"),
    ("A piano solo", "A violin and a cello", "The band, then the choir", "None of the above", "Cannot be determined"),
    ("guitar", "drums", "flute", "harp", "violin", "trumpet"),
    tuple(f"source number {place}" for place in range(7)),
    ("Red car", "Blue car", "A red bus", "Two men", "Train", "Plane", "Ship", "Bike"),
    tuple(f"at {place} seconds" for place in range(9)),
    ("Alpha", "Bravo", "Charlie", "Delta", "Echo", "Foxtrot", "Golf", "Hotel", "India", "Juliett"),
)
"""Options of every size from 2 to 10, for all forms without options of their own."""

OWN_SETS: dict[str, tuple[tuple[tuple[str, ...], int], ...]] = {
    "@3": ((("1", "2", "3", "4"), 2), (("3", "12"), 0), (("2", "3"), 1)),
    "@yes": ((("Yes", "No"), 0), (("yes", "no", "unclear"), 0)),
    "@no": ((("Yes", "No"), 1), (("yes", "no", "unclear"), 1)),
    "@notes": ((("C", "D", "E", "F"), 1),),
    "@species": ((("E. coli", "C. elegans", "S. aureus"), 1),),
    "@animals": ((("dog", "cat", "bird", "horse"), 1),),
    "@dog": ((("dog", "cat", "bird", "horse"), 0),),
    "@units": ((("2.00 m^2", "2.50 m^2", "2.14 m^2"), 1),),
    "@minus": ((("5 V", "-5 V"), 1),),
    "@spelling": ((("a guitar", "the drummer plays a short solo", "rain"), 1),),
    "@words": ((("One", "Two", "Three", "Four"), 2),),
    "@sides": ((("left hand, yes", "left hand, no", "right hand, yes", "right hand, no"), 1),),
    "@names": ((("BachaBlox", "ObliviousHD_", "_Poke_"), 1),),
    "@places": ((("the first sound", "the second sound", "the third sound"), 1),),
    "@articles": ((("A dog", "A cat", "A man"), 0),),
}
"""Options that are numbers, words of yes and no, letters, or begin with a letter; each with the intended index."""

CHARACTERS = {
    "zwsp": "\u200b",
    "bom": "\ufeff",
    "nbsp": "\u00a0",
    "rlm": "\u200f",
    "half": "\ud83d",
}


class Form(NamedTuple):
    """One line of the file."""

    group: str
    sure: bool
    cut: bool
    text: str


class Case(NamedTuple):
    """A reply with its options; `letter` is None where a person is not sure."""

    form: Form
    reply: str
    options: tuple[str, ...]
    letter: str | None


def read_forms(path: Path = FILE) -> list[Form]:
    """All forms, in the file's order."""
    forms, group = [], ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            group = line[2:].partition(":")[0]
        elif line:
            mark, _, text = line.partition(" ")
            forms.append(Form(group, mark.startswith("+"), mark.endswith("cut"), text.replace("↵", "\n")))
    return forms


def cases_of(form: Form) -> Iterator[Case]:
    """The form's replies: for every set and every intended option, or for its own sets."""
    text, _, name = form.text.rpartition(" ")
    if name in OWN_SETS:
        for options, intended in OWN_SETS[name]:
            yield _fill(form, text, options, intended)
    else:
        for options in SETS:
            for intended in range(len(options)):
                yield _fill(form, form.text, options, intended)


def wrong_readings(forms: Sequence[Form]) -> tuple[Counter[tuple[str, str]], list[tuple[Case, str | None]]]:
    """Counts by group (``sure``, ``unsure``, ``accepted wrongly``, ``rejected wrongly``), and the wrong cases."""
    counts: Counter[tuple[str, str]] = Counter()
    wrong = []
    for form in forms:
        for case in cases_of(form):
            letter = parse(case.reply, case.options, "robust", "length" if form.cut else "stop").letter
            counts[form.group, "sure" if form.sure else "unsure"] += 1
            if letter != case.letter:
                counts[form.group, "rejected wrongly" if letter is None else "accepted wrongly"] += 1
                wrong.append((case, letter))
    return counts, wrong


def _fill(form: Form, text: str, options: tuple[str, ...], intended: int) -> Case:
    other = (intended + 1) % len(options)
    words = {
        "L": LETTERS[intended],
        "l": LETTERS[intended].lower(),
        "T": options[intended],
        "M": LETTERS[other],
        "U": options[other],
        **CHARACTERS,
        **_blocks(options, intended),
    }
    names = "|".join(sorted(words, key=len, reverse=True))
    reply = re.sub(rf"@({names})", lambda name: words[name[1]], text)
    return Case(form, reply, options, LETTERS[intended] if form.sure else None)


def _blocks(options: Sequence[str], intended: int) -> dict[str, str]:
    """All options, as replies repeat them."""
    rows = list(zip(LETTERS, options, strict=False))
    comments = ("it comes first", "heard in the middle", "near the end", "in the background", "faint")
    return {
        "list": "\n".join(f"{letter}. {text}" for letter, text in rows),
        "parens": "\n".join(f"({letter}) {text}" for letter, text in rows),
        "inline": ", ".join(f"{letter}. {text}" for letter, text in rows),
        "each": "\n".join(f"({letter}) {text}: {comments[place % 5]}." for place, (letter, text) in enumerate(rows)),
        "allwrong": "\n".join(
            f"{letter}) {'Correct' if place == intended else 'Incorrect'}" for place, (letter, _) in enumerate(rows)
        ),
        "table": "\n".join(
            ["| Option | Text | Verdict |", "|---|---|---|"]
            + [
                f"| {letter} | {text} | {'yes' if place == intended else 'no'} |"
                for place, (letter, text) in enumerate(rows)
            ]
        ),
    }
