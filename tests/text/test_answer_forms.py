"""The answer parser on many forms of replies and option sets: reads what a person is sure of, and nothing wrongly."""

import json
import re
import time
from collections import Counter

import pytest

from avrt.sample import LETTERS
from avrt.text.answers import Reason, parse
from tests.text.answer_forms import CLEAR, UNCLEAR, fill
from tests.text.test_answers import read
from tests.wild_replies import NOT_SURE, OPTIONS, SURE

SETS = (
    ("dog", "cat", "bird", "horse"),
    ("Barking", "Rain"),
    ("A dog", "A cat", "A man is singing"),
    ("1", "2", "3", "4"),
    (
        "A piano solo",
        "A violin and a cello",
        "The crowd cheers, then claps",
        "None of the above",
        "Cannot be determined",
    ),
    tuple(f"source number {place}" for place in range(10)),
)
YES_NO = ("Yes", "No")
"""Words that also begin a correction, so that a clear form may be lost."""
NOTES = ("C", "D", "E", "F")
HEADINGS = (
    "Going through every option:",
    "Let's evaluate each option:",
    "**Let's evaluate each option:**",
    "### Evaluating each choice:",
    "Here is an analysis of every option:\n",
    "Looking at each possible answer:",
    "1. Going through each option:",
)


def wrong_readings(form, options, *, sure):
    """The gold letters for which a form is not read as expected, each with its reading."""
    wrong = []
    for gold in range(len(options)):
        letter = parse(fill(form, options, gold, (gold + 1) % len(options)), options, "robust").letter
        if letter != (LETTERS[gold] if sure else None):
            wrong.append((LETTERS[gold], letter))
    return wrong


@pytest.mark.parametrize("form", CLEAR)
def test_a_clear_form_is_read_whichever_option_it_names(form):
    assert {options: found for options in SETS if (found := wrong_readings(form, options, sure=True))} == {}
    assert {letter for _, letter in wrong_readings(form, YES_NO, sure=True)} <= {None}


@pytest.mark.parametrize("form", UNCLEAR)
def test_an_unclear_form_names_no_option(form):
    sets = (*SETS, YES_NO)
    assert {options: found for options in sets if (found := wrong_readings(form, options, sure=False))} == {}


@pytest.mark.parametrize(("replies", "letter"), [(SURE, "B"), (NOT_SURE, None)])
def test_replies_of_many_kinds(replies, letter):
    found = {reply: parse(reply, OPTIONS, "robust").letter for reply in replies}
    assert {reply: read_as for reply, read_as in found.items() if read_as != letter} == {}


@pytest.fixture(scope="module")
def real_sets(real_data):
    """All option sets of three benchmarks whose options differ, each with its gold option's index."""
    found = {}
    folder = real_data / "annotations"
    for row in json.loads((folder / "dailyomni_qa.json").read_text(encoding="utf-8")):
        options = tuple(re.sub(r"^[A-Z]\. ?", "", choice) for choice in row["Choice"])
        found[options] = LETTERS.index(row["Answer"])
    rows = json.loads((folder / "mmau_test_mini.json").read_text(encoding="utf-8"))
    rows += map(json.loads, (folder / "mmar_meta.jsonl").read_text(encoding="utf-8").splitlines())
    for row in rows:
        if row["answer"] in row["choices"]:
            found[tuple(row["choices"])] = row["choices"].index(row["answer"])
    return {
        options: gold
        for options, gold in found.items()
        if len({option.casefold() for option in options}) == len(options) > 1 and all(options)
    }


def test_forms_over_real_options(real_sets):
    """No reply is read as another option; those lost are few, and not of one letter more than of another."""
    asked, lost, false = Counter(), Counter(), []
    for place, options in enumerate(real_sets):
        for form, sure in [(CLEAR[place % len(CLEAR)], True), (UNCLEAR[place % len(UNCLEAR)], False)]:
            for gold in range(len(options)):
                text = fill(form, options, gold, (gold + 1) % len(options))
                letter = parse(text, options, "robust").letter
                if letter not in (None, LETTERS[gold] if sure else None):
                    false.append((text, options, letter))
                asked[sure] += 1
                lost[sure] += sure and letter is None
    assert false == []
    assert lost[True] <= 0.002 * asked[True]


@pytest.mark.parametrize("heading", HEADINGS)
def test_a_heading_over_the_options_announces_none(real_sets, heading):
    """The real options discussed under a heading: the closing line decides; without one there is no answer."""
    read_by_letter, asked_by_letter = Counter(), Counter()
    for options, gold in list(real_sets.items())[HEADINGS.index(heading) % 4 :: 4]:
        each = fill("{each}", options, gold, 0)
        closed = parse(f"{heading}\n{each}\nAnswer: ({LETTERS[gold]}) {options[gold]}", options, "robust")
        asked_by_letter[LETTERS[gold]] += 1
        read_by_letter[LETTERS[gold]] += closed.letter == LETTERS[gold]
        assert parse(f"{heading}\n{each}", options, "robust").letter is None
    shares = {letter: read_by_letter[letter] / asked_by_letter[letter] for letter in "ABCD"}
    assert min(shares.values()) > 0.997


@pytest.mark.parametrize(
    ("text", "letter", "reason"),
    [
        # Each reason must be the true one.
        ("The answer is B. Wait, no.", None, "no_answer_tag"),
        ("The answer is B. Wait, maybe C.", None, "multi_letter"),
        ("B. dog. I am not sure.", None, "no_answer_tag"),
        ("<answer>A</answer> Wait, the answer is C.", "C", "ok"),
        ("<answer>A</answer> The answer is C.", None, "multi_letter"),
        ("<answer>A</answer> or <answer>C</answer>", None, "multi_letter"),
        ("<answer>A</answer>? No.", None, "no_answer_tag"),
        ("(B) seems plausible.", None, "no_answer_tag"),
        ("<answer>(B) seems plausible.</answer>", None, "not_an_option"),
        ("The answer is B (cat).", None, "letter_text_conflict"),
        ("A. cat\nB. dog\nC. Pop rock\nD. hail", None, "multi_letter"),
        (r"\boxed{E}", None, "not_an_option"),
        (r"\boxed{A \text{ or } B}", None, "multi_letter"),
        (r"<answer>\boxed{}</answer>", None, "not_an_option"),
    ],
)
def test_reasons(text, letter, reason):
    assert read(text, "robust") == (letter, reason)


@pytest.mark.parametrize(
    ("text", "options", "letter"),
    [
        ("C", NOTES, "C"),
        ("F", NOTES, "D"),  # no letter of an option, but a text
        ("The answer is C (C).", NOTES, None),
        ("The answer is A. B", ("A", "B", "C", "D"), None),
        ("D", NOTES, "D"),  # a bare letter is what was asked for
        ("Answer: D", NOTES, "D"),
        ('the answer is "D"', NOTES, None),  # the fourth option, or the second's text
        ("B. D", NOTES, "B"),
        ("B. C", NOTES, None),
        ("(D) D and 8", ("C and 5", "E and 7", "D and 8", "F and 3"), None),
        ("D and 8", ("C and 5", "E and 7", "D and 8", "F and 3"), "C"),
        ("The answer is A. A:7/1", ("A:3/4", "B:1/2", "C:2/2", "A:7/1"), None),
        ("The answer is 1.5.", ("1", "1.5"), "B"),
        ("The answer is 1.5.", ("1", "2"), None),
        ("The answer is 5%.", ("5", "50"), None),
        ("A cat", ("dog", "cat"), None),
        ("The answer is a cat.", ("dog", "cat"), "B"),
        ("Answer: (B) the cat", ("dog", "cat"), "B"),
        ("No.", ("Yes", "No"), "B"),
        ("The answer is B. No.", ("Yes", "No"), "B"),
        ("The answer is A. No.", ("Yes", "No"), None),
    ],
)
def test_options_that_look_like_letters_or_words(text, options, letter):
    assert parse(text, options, "robust").letter == letter


# A piece of a reply, to be repeated; each once took more than linear time, here or in an earlier pattern.
PIECES = ["(", "a, ", "answer is ", "answer:\n", "B is correct, ", "but, ", "I choose ", "the answer is B\n", "no, "]
PIECES += [
    "actually, ",
    "one that ",
    "B. cat\n",
    "option B is correct. ",
    "The answer is A. However, ",
    "B. No other. ",
]
PIECES += [
    "\\text{",
    "\\boxed{B} ",
    "\u0300\u0316",
    "$",
    "<answer>",
    "<answer>B</answer> wait, ",
    "(B) dog. ",
    "\n",
    "if ",
]


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("Answer: B. No other animals can be heard.", "B"),
        ("Answer: B. Actually, the cat is seen at 0:03.", "B"),
        ("Answer: B. Actually, the dog is seen at 0:03.", None),
        ("The answer is not A, it is B.", "B"),
        ("(1): 3 of 4 barks\n(2): it meows\nSo far 3 animals.\nAnswer: B", "B"),
        ("The correct answer is A. However, the meow is clear.\n\nAnswer: B", "B"),
        ("The answer is A.\n\nAnswer: B", None),
        ("Option A is correct for barks.\nOption B is correct for meows.\nWe hear a meow.\nAnswer: B", "B"),
        ('Option (A) is correct: "dog".\nOption (B) is correct: "cat".\nBoth are heard.\nAnswer: B', "B"),
        ("Answer: B (this is just an example, replace it)", None),
    ],
)
def test_answers_in_the_context_of_a_reply(text, letter):
    assert parse(text, OPTIONS, "robust").letter == letter


@pytest.mark.parametrize("piece", PIECES)
def test_a_long_reply_takes_linear_time(piece):
    """100,000 characters; a pattern that backtracks, or a quadratic loop, takes minutes."""
    began = time.process_time()
    for text in (piece * (100_000 // len(piece)), "The answer is " + piece * (100_000 // len(piece)) + "?"):
        assert isinstance(parse(text, SETS[0], "robust").reason, Reason)
    assert time.process_time() - began < 10
