"""The benchmarks' own rules on the answer's text: what they say of a student that thinks in tags."""

from __future__ import annotations

from pathlib import Path

import pytest

from avrt.evaluation.answer_part import answer_part
from avrt.evaluation.benchmarks import BENCHMARKS, new_record
from avrt.evaluation.scoring import grade_record, score_run
from tests.evaluation.conftest import RunMaker, make_records, reply
from tests.evaluation.test_benchmarks import load


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("B", "B"),
        ("<think>A or B</think>\n<answer> B </answer><|im_end|>", "B"),
        ("<answer>A</answer> no: <answer>(B) dog</answer> sure", "(B) dog"),
        ("<think>A?</think> The answer is B.", "The answer is B."),
        ("◁think▷A?◁/think▷ B", "B"),
        ("A is out.</think>B", "B"),  # the server's chat template wrote the opening tag
        ("<think>It is A because", ""),  # thinking that never ends has no answer
        ("<think>x</think><answer>B", "<answer>B"),
        ("<think>x", ""),
        ("", ""),
    ],
)
def test_the_part_of_a_reply_with_its_answer(text: str, part: str) -> None:
    assert answer_part(text) == part


@pytest.mark.parametrize(
    ("benchmark", "text", "official", "on_answer"),
    [
        ("dailyomni", reply("A"), False, True),
        ("dailyomni", reply("B"), False, False),
        ("dailyomni", "<think>A</think> Answer: A", False, True),  # its rule reads the A of "Answer"
        ("mmar", reply("A"), False, True),  # the bare letter counts as its option's text
        ("mmar", reply("B"), False, False),
        ("mmar", "<think>cat or dog</think><answer>cat</answer>", False, True),
        ("mmau", "<think>cat</think><answer>A. cat</answer>", True, True),
        ("omnibench", "<think>(B) or (A)? (B) it is not, but cat</think><answer>A</answer>", False, True),
        ("videomme", "<think>Both.</think><answer>A</answer>", False, True),
        ("videomme", "<think>no letter yet", None, None),
        ("avqa", reply("A"), True, True),  # no rule of its own: the strict score
    ],
)
def test_official_rules_on_the_answer(benchmark: str, text: str, official: bool, on_answer: bool) -> None:
    changes = {"official_gold": "A"} if benchmark == "omnibench" else {}
    scored = grade_record(make_records(benchmark, [text], **changes)[0], "paper")
    assert (scored.correct_official, scored.correct_official_answer) == (official, on_answer)


@pytest.mark.parametrize("name", ["dailyomni", "mmau", "mmar"])
def test_a_student_that_answers_all_in_tags_has_its_score(real_data: Path, name: str) -> None:
    """Every gold answer in tags: right by the rule on the answer, in all rows of the authors' files."""
    for item in load(real_data, name):
        record = new_record(BENCHMARKS[name], item, text=reply(item.sample.gold))
        assert grade_record(record, "paper").correct_official_answer, item.sample


def test_metrics_have_the_three_scores(make_run: RunMaker) -> None:
    (scored,) = score_run(make_run("run", "dailyomni", [reply("A"), reply("B"), "A", ""]))
    metrics = scored.metrics
    counts = {name: (metrics[name]["correct"], metrics[name]["items"]) for name in ("strict", "official")}
    assert counts == {"strict": (1, 4), "official": (1, 4)}
    assert (metrics["official_answer"]["correct"], metrics["official_answer"]["items"]) == (2, 4)
    assert metrics["categories"]["kind"]["even"]["official_answer"]["correct"] == 2
