"""The answer parser: properties that hold for any reply."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from avrt.sample import LETTERS
from avrt.text.answers import Reason, answer_body, first_think, is_formatted, parse
from tests.text.answer_forms import CLEAR, UNCLEAR, fill

OPTIONS = ("cat", "dog", "Pop rock", "hail")

PIECES = st.sampled_from(
    [
        *(
            "<think>",
            "</think>",
            "<answer>",
            "</answer>",
            "◁think▷",
            "◁/think▷",
            "<|im_end|>",
            "Answer:",
            "the answer is",
        ),
        *(
            "A",
            "B",
            "(C)",
            "d",
            "E.",
            "cat",
            "dog",
            "not",
            "or",
            " ",
            "\n",
            "*",
            ".",
            ",",
            ":",
            "?",
            "A man",
            r"\boxed{",
        ),
    ]
)
REPLIES = st.one_of(st.text(), st.lists(PIECES, max_size=14).map("".join), st.lists(PIECES, max_size=14).map(" ".join))
PROFILES = st.sampled_from(["paper", "robust"])
FINISHES = st.sampled_from(["stop", "length"])


@settings(deadline=None)
@given(
    text=REPLIES,
    options=st.lists(st.one_of(st.text(max_size=8), PIECES), min_size=2, max_size=10),
    profile=PROFILES,
    finish_reason=FINISHES,
)
def test_never_raises_and_the_letter_is_an_options(text, options, profile, finish_reason):
    parsed = parse(text, options, profile, finish_reason)
    assert parsed.letter is None or (len(parsed.letter) == 1 and parsed.letter in LETTERS[: len(options)])
    assert isinstance(parsed.reason, Reason)
    if parsed.reason is Reason.OK:
        assert parsed.letter is not None


@settings(deadline=None)
@given(text=REPLIES, finish_reason=FINISHES)
def test_paper_reasons_agree_with_the_format_term(text, finish_reason):
    parsed = parse(text, OPTIONS, "paper", finish_reason)
    if parsed.letter is not None:
        assert answer_body(text) == parsed.letter
        formatted = is_formatted(text)
        assert formatted or parsed.reason is not Reason.OK
        if formatted:
            assert parsed.reason is (Reason.OK if first_think(text).strip() else Reason.EMPTY_THINK)


@settings(deadline=None)
@given(think=REPLIES, letter=st.sampled_from("ABCD"))
def test_what_the_paper_profile_reads_in_a_formatted_reply_the_robust_one_reads_too(think, letter):
    text = f"<think>{think}</think>\n<answer>{letter}</answer>"
    assume(is_formatted(text))
    assert parse(text, OPTIONS, "paper").letter == parse(text, OPTIONS, "robust").letter == letter


WORDS = st.sampled_from(["man", "woman", "is", "singing", "plays", "loudly", "near", "the", "river", "with", "rain"])


@settings(deadline=None)
@given(
    before=st.lists(WORDS, max_size=6),
    letter=st.sampled_from("ABCDabcdI"),
    after=st.lists(WORDS, min_size=0, max_size=6),
)
def test_a_letter_inside_a_sentence_is_no_answer(before, letter, after):
    assume(before or after)
    sentence = " ".join([*before, letter, *after])
    for text in (sentence, f"{sentence}.", f"<think>x</think>{sentence}", f"<answer>{sentence}</answer>"):
        assert parse(text, OPTIONS, "robust").letter is None


PLAIN_FORMS = ["{0}", "({0})", "{0}. {1}", "({0}) {1}"]
FORMS = [*PLAIN_FORMS, "Answer: {0}", "Answer: {0}. {1}", "The answer is {0}.", "the best fit is: *({0}) {1}*"]


@settings(deadline=None)
@given(data=st.data(), pair=st.permutations(range(4)))
def test_two_different_letters_are_invalid(data, pair):
    glue = data.draw(st.sampled_from(["\n", "\n\n", " or ", ", ", " / ", " and "]))
    forms = st.sampled_from(FORMS if "\n" in glue else PLAIN_FORMS)
    text = glue.join(data.draw(forms).format("ABCD"[index], OPTIONS[index]) for index in pair[:2])
    for reply in (text, f"<think>x</think>{text}", f"<answer>{text}</answer>"):
        assert parse(reply, OPTIONS, "robust").letter is None
        assert parse(reply, OPTIONS, "paper").letter is None


TEXTS = ("cat", "dog", "Pop rock", "a man is singing", "Yes", "3", "A dog and a cat", "none of the above")


@settings(deadline=None)
@given(data=st.data(), size=st.integers(2, len(TEXTS)))
def test_the_order_of_options_does_not_change_which_one_is_chosen(data, size):
    """The same form about the same option has the same reading at any index of that option."""
    texts = data.draw(st.permutations(TEXTS))[:size]
    chosen, other = texts[0], texts[1]
    form = data.draw(st.sampled_from([form for form in CLEAR + UNCLEAR if "{T}" in form or "{L}" in form]))
    options = data.draw(st.permutations(texts))
    readings = set()
    for order in (texts, options, options[::-1]):
        letter = parse(fill(form, order, order.index(chosen), order.index(other)), order, "robust").letter
        readings.add(letter and order[LETTERS.index(letter)])
    assert readings <= ({None} if form in UNCLEAR else {chosen}), form


@pytest.mark.parametrize(
    "text",
    [
        *(
            "a, " * 20_000 + "#",
            "(" * 60_000,
            "answer: " * 3_000,
            "." * 60_000 + "x",
            "<answer>" * 20_000,
            "$" * 60_000,
        ),
        *("<" + " " * 60_000, "(A) " * 20_000, "\\boxed{" * 10_000, '"' * 60_000 + "B", "the answer is B\n" * 2_000),
    ],
)
def test_long_degenerate_replies_end(text):
    """A reply that repeats itself causes no long backtracking (the suite's time limit would catch it)."""
    for profile in ("paper", "robust"):
        parse(text, OPTIONS, profile)
