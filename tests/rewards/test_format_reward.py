"""Format reward: the whole reply counts, and each way to break the format costs the point."""

import pytest

from avrt.rewards import FormatReward
from avrt.sample import Completion, Sample

SAMPLE = Sample(id="s", question="?", options=("cat", "dog"), answer=0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>it meows</think><answer>A</answer>", 1.0),
        ("  <think>line one\nline two</think>\n\n<answer>\nA\n</answer>\n", 1.0),
        ("<think></think><answer>D</answer>", 1.0),
        ("<think>x</think><answer>not even a letter</answer>", 1.0),
        ("<think>x</think><answer>A</answer><|im_end|>\n<|endoftext|>", 1.0),
        ("<think>x</think><answer>A</answer> So A it is.", 0.0),
        ("<think>x</think><answer>A</answer>\n<think>y</think><answer>A</answer>", 0.0),
        ("Sure! <think>x</think><answer>A</answer>", 0.0),
        ("<think>x</think> thus <answer>A</answer>", 0.0),
        ("<think>x</think><answer>  </answer>", 0.0),
        ("<think>x<think>y</think><answer>A</answer>", 0.0),
        ("<think>say <answer> </think><answer>A</answer>", 0.0),
        ("<think>x <answer>A</answer></think>", 0.0),
        ("<answer>A</answer><think>x</think>", 0.0),
        ("<THINK>x</THINK><ANSWER>A</ANSWER>", 0.0),
        ("<think>x</think><answer>A", 0.0),
        ("<answer>A</answer>", 0.0),
        ("", 0.0),
    ],
)
def test_format_reward(text, expected):
    assert FormatReward().score([Completion(SAMPLE, text)]) == [expected]
