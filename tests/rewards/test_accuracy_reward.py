"""Accuracy reward: the gold letter in one answer pair and nothing else; every gold answer scores 1."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avrt.rewards import AccuracyReward
from avrt.sample import Completion, Sample
from avrt.text.prompts import format_target

SAMPLE = Sample(id="s", question="?", options=("cat", "dog", "rain", "B"), answer=1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>x</think><answer>B</answer>", 1.0),
        ("<think>x</think><answer> \nB </answer>", 1.0),
        ("chatter <answer>B</answer> more chatter", 1.0),  # the format term alone punishes this
        ("<think>never closed <answer>B</answer>", 1.0),
        ("<think>x</think><answer>A</answer>", 0.0),
        ("<think>x</think><answer>b</answer>", 0.0),
        ("<think>x</think><answer>B.</answer>", 0.0),
        ("<think>x</think><answer>(B)</answer>", 0.0),
        ("<think>x</think><answer>dog</answer>", 0.0),
        ("<think>x</think><answer>A, B</answer>", 0.0),
        ("<think>x</think><answer>Ｂ</answer>", 0.0),
        ("<answer>B</answer><answer>B</answer>", 0.0),
        ("<answer>A</answer><answer>B</answer>", 0.0),
        ("<answer>B", 0.0),
        ("B</answer>", 0.0),
        ("</answer>B<answer>", 0.0),
        ("B", 0.0),
        ("The answer is B", 0.0),
    ],
)
def test_accuracy_reward(text, expected):
    assert AccuracyReward().score([Completion(SAMPLE, text)]) == [expected]


def test_a_cut_reply_with_a_complete_answer_counts():
    assert AccuracyReward().score([Completion(SAMPLE, "<answer>B</answer> and", finish_reason="length")]) == [1.0]


@settings(deadline=None)
@given(data=st.data())
def test_every_gold_answer_scores_one_and_every_other_zero(data):
    options = data.draw(st.lists(st.text(), min_size=2, max_size=10))
    gold = data.draw(st.integers(0, len(options) - 1))
    sample = Sample(id="s", question="?", options=tuple(options), answer=gold)
    completions = [Completion(sample, format_target("some thinking", letter)) for letter in sample.letters]
    assert AccuracyReward().score(completions) == [float(index == gold) for index in range(len(options))]
