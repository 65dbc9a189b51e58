"""Permuted options: a bijection by seed, pass and id alone, and the texts for which the order is kept."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avrt.sample import LETTERS, Sample
from avrt.text.option_order import has_fixed_order, permuted_options

WORDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
QUESTIONS = st.builds(
    lambda key, question, options, answer: Sample(key, question, tuple(options), answer % len(options)),
    st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=20),
    WORDS,
    st.lists(WORDS, min_size=2, max_size=len(LETTERS)),
    st.integers(0, 25),
)


@settings(max_examples=200, deadline=None)
@given(sample=QUESTIONS, seed=st.integers(0, 2**32), epoch=st.integers(0, 1000))
def test_a_bijection_that_the_gold_follows(sample: Sample, seed: int, epoch: int) -> None:
    other = permuted_options(sample, seed, epoch)
    assert Counter(other.options) == Counter(sample.options)
    assert other.options[other.answer] == sample.options[sample.answer]
    assert other.letters == sample.letters
    assert other.is_right(other.letters[other.answer])
    assert (other.id, other.question) == (sample.id, sample.question)
    assert permuted_options(sample, seed, epoch) == other
    assert has_fixed_order(other) == has_fixed_order(sample)
    if has_fixed_order(sample):
        assert other == sample


@settings(max_examples=50, deadline=None)
@given(numbers=st.permutations(range(4)), seed=st.integers(0, 9), epoch=st.integers(0, 9))
def test_equal_texts_do_not_confuse_the_gold(numbers: list[int], seed: int, epoch: int) -> None:
    """Two options may have one text; the gold one is known by its place."""
    texts = ("dog", "cat", "dog", "bird")
    sample = Sample("q", "?", tuple(texts[n] for n in numbers), 0)
    assert (
        permuted_options(sample, seed, epoch).options[permuted_options(sample, seed, epoch).answer] == texts[numbers[0]]
    )


def test_every_order_is_equally_likely() -> None:
    sample = Sample("clip-7", "?", ("dog", "cat", "bird"), 1)
    drawn = Counter(permuted_options(sample, 3, epoch).options for epoch in range(6000))
    assert len(drawn) == 6
    assert all(abs(count - 1000) < 130 for count in drawn.values())  # 4.5 standard deviations
    gold = Counter(
        permuted_options(Sample(f"q{i}", "?", ("x1", "x2", "x3", "x4"), 0), 0, 0).answer for i in range(4000)
    )
    assert all(abs(gold[place] - 1000) < 125 for place in range(4))


def test_known_orders() -> None:
    """A resumed run must find the orders of the run before, also with another version of Python or of this project."""
    sample = Sample("clip-7", "?", ("dog", "cat", "bird", "horse"), 2)
    found = [permuted_options(sample, seed, epoch).options for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert found == [
        ("bird", "cat", "dog", "horse"),
        ("horse", "cat", "bird", "dog"),
        ("horse", "bird", "cat", "dog"),
    ]


def test_traces_are_dropped() -> None:
    """They name the letters of the other order."""
    sample = Sample(
        "q", "?", ("dog", "cat"), 0, trace="<answer>A</answer>", teacher_traces={"vision": "(A)"}, extra={"x": 1}
    )
    other = permuted_options(sample, 0, 0)
    assert (other.trace, other.teacher_traces, other.extra) == (None, {}, {"x": 1})


@pytest.mark.parametrize(
    ("question", "option"),
    [
        ("?", "All of the above"),
        ("?", "Same as the previous one"),
        ("?", "All sounds listed"),
        ("?", "none of these."),
        ("?", "None of the above is heard"),
        ("?", "all the above"),
        ("?", "two of the above"),
        ("?", "Any of the following"),
        ("?", "None of the other options"),
        ("?", "Either of them"),
        ("?", "Both options"),
        ("?", "Both"),
        ("?", "neither."),
        ("?", "None"),
        ("?", "same as above"),
        ("?", "the first option"),
        ("?", "the last two answers"),
        ("?", "option 1"),
        ("?", "both 1 and 2"),
        ("?", "both A and B"),
        ("?", "both (a) and (b)"),
        ("?", "a and b"),
        ("?", "A or B"),
        ("?", "A, B"),
        ("?", "A & B"),
        ("?", "Only B"),
        ("?", "option b"),
        ("?", "A"),
        ("?", "b"),
        ("?", "以上都是"),
        ("?", "选项A"),
        ("?", "todas las anteriores"),
        ("Who sings, person A or person B?", "the left one"),
        ("Which is it: A. cat B. dog?", "cat"),
        ("Which is it: a) cat b) dog?", "cat"),
        ("Is the first option right?", "yes"),
    ],
)
def test_the_order_is_kept(question: str, option: str) -> None:
    assert has_fixed_order(Sample("q", question, ("dog", "cat", option), 0))


@pytest.mark.parametrize(
    ("question", "option"),
    [
        ("What does a man hold?", "A cat"),
        ("A man plays. What do I hear?", "I can't tell"),
        ("Which of the following is heard?", "a horse's hooves"),
        ("Choose the correct option from the following options: what is it?", "the former"),
        ("Is it a cat or a dog, or both of them?", "a dog and a cat"),
        ("Who sang first?", "the first one"),
        ("Where is the lamp?", "above the door"),
        ("Where is the lamp?", "on the table in front of both men"),
        ("How many?", "3"),
        ("How warm is it?", "9°C"),
        ("Which music?", "R&B"),
        ("Which tool?", "C-clamp"),
        ("Which one?", "one of those little stickers"),
        ("Which vitamin?", "Vitamin K"),  # no option has that letter
        ("乐器是什么？", "吉他"),
    ],
)
def test_the_order_is_free(question: str, option: str) -> None:
    assert not has_fixed_order(Sample("q", question, ("dog", "cat", option), 0))
