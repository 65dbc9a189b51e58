"""Length reward: the method's check values, the edges, and which words are counted."""

import pytest

from avrt.rewards import LengthReward
from avrt.sample import Completion, Sample

SAMPLE = Sample(id="s", question="?", options=("cat", "dog"), answer=0)


def score(text: str, **options) -> float:
    return LengthReward(**options).score([Completion(SAMPLE, text)])[0]


def reply(words: int) -> str:
    return f"<think>{' '.join(['word'] * words)}</think>\n<answer>A</answer>"


@pytest.mark.parametrize(
    ("words", "expected"),
    [(80, 0.607), (114, 0.983), (120, 0.807), (130, 0.525), (165, 0.205), (200, 0.2), (201, 0.0)]
    + [(words, 1.0) for words in range(100, 114)],
)
def test_check_values(words, expected):
    assert round(score(reply(words)), 3) == expected


def test_below_w_min_there_is_no_bonus():
    assert score(reply(99)) == pytest.approx(0.9987508, abs=1e-7)


def test_always_between_zero_and_one():
    values = [score(reply(words)) for words in range(400)]
    assert min(values) >= 0
    assert max(values) == 1


@pytest.mark.parametrize("text", ["", "word " * 100, "<think>" + "word " * 100, "word " * 100 + "</think>"])
def test_without_a_complete_think_pair_it_is_exactly_zero(text):
    assert score(text) == 0.0
    assert score(text, mu=0.0, w_min=0) == 0.0


def test_an_empty_think_body_has_zero_words():
    assert score("<think></think><answer>A</answer>", mu=0.0, bonus=0.0) == 1.0


def test_words_are_split_at_any_white_space_and_only_in_the_first_think():
    body = "\n\t ".join(["one-word,"] * 120)
    assert score(f"noise <think>{body}</think> <think>more words here</think>") == pytest.approx(0.8065307, abs=1e-7)


def test_options():
    assert score(reply(50), mu=50, sigma=5, w_min=60, w_max=70) == 1.0
    assert score(reply(65), mu=50, sigma=5, w_min=60, w_max=70, bonus=0.5) == pytest.approx(0.5111090, abs=1e-7)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"sigma": 0.0}, "sigma"),
        ({"sigma": float("nan")}, "sigma"),
        ({"mu": float("inf")}, "mu"),
        ({"w_min": 300}, "w_min"),
        ({"bonus": -0.1}, "bonus"),
        ({"bonus": 1.5}, "bonus"),
    ],
)
def test_wrong_options_are_named(options, named):
    with pytest.raises(ValueError, match=named):
        LengthReward(**options)
