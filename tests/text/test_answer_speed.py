"""The answer parser's running time: linear in a reply's length, and far below that of generating the reply."""

import random
import time

import pytest

from avrt.text.answers import parse
from tests.text.reply_corpus import cases_of, read_forms

OPTIONS = ("dog", "cat", "bird", "left hand, no")
PIECES = [
    *("the answer is", "Answer:", "A", "B", "(C)", "D.", "dog", "left hand, no", "no,", "wait,", "actually, ", "so "),
    *("option B is correct", "the second option", "option 2", "There are 3 ", "I choose ", "Therefore, ", "However, "),
    *("\n", " ", ".", ",", ":", "?", "(", "[", "**", "|", "`", "$", "\\boxed{", "}", "{", '"answer": "B"', "'", '"'),
    *("<answer>", "</answer>", "<think>", "</think>", "~~", "__", "==", "#", "- ", "1. ", "<br>", "is C. ", "/", "&"),
    *(
        "答案",
        "是B",
        "正解は",
        "\u0301",
        "\u200b",
        "\ud83d",
        "B. cat",
        "not ",
        "maybe ",
        "if ",
        "let me think",
        "x" * 50,
    ),
]
SIZE = 8_000
GROWTH = 4
ALLOWED = 2.5 * GROWTH
"""Linear would be `GROWTH`, quadratic its square; the rest is for a machine that does other work too."""
SHORTEST = 0.004
"""Seconds below which a ratio says nothing."""


def seconds(text: str) -> float:
    """Processor time for one reply, the least of three."""
    times = []
    for _ in range(3):
        start = time.process_time()
        parse(text, OPTIONS, "robust")
        times.append(time.process_time() - start)
    return min(times)


@pytest.mark.parametrize("seed", range(6))
def test_repeated_pieces_take_linear_time(seed: int) -> None:
    chosen = random.Random(seed)
    for _ in range(12):
        unit = "".join(chosen.choice(PIECES) + chosen.choice(["", " ", "\n"]) for _ in range(chosen.randrange(1, 6)))
        short = unit * (SIZE // len(unit) + 1)
        before, after = seconds(short), seconds(short * GROWTH)
        assert after <= ALLOWED * max(before, SHORTEST), (unit, before, after)


def test_more_than_100000_replies_a_minute() -> None:
    cases = [case for form in read_forms()[::8] for case in cases_of(form)]
    start = time.process_time()
    for case in cases:
        parse(case.reply, case.options, "robust")
    assert len(cases) / (time.process_time() - start) > 100_000 / 60
