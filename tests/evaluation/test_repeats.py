"""The numbers of several replies, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from avrt.evaluation.records.record import Record
from avrt.evaluation.repeats import expected_variants, finished_items, majority_is_right, repeat_scores
from avrt.evaluation.scoring import grade_record, score_run, strict_score, write_scores
from tests.evaluation.conftest import RunMaker, make_records, reply


def replies(letters: str, **changes: object) -> list[Record]:
    """The graded replies to one item, whose gold answer is A; ``-`` gives no answer."""
    (item,) = make_records("mmau", [""], **changes)
    texts = [reply(letter) if letter != "-" else "I cannot tell." for letter in letters]
    return [grade_record(replace(item, text=text, repeat=i), "paper") for i, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("letters", "right"),
    [("AAB", True), ("ABB", False), ("AB", True), ("BA", False), ("--A", True), ("---", False), ("BCAA", True)],
)
def test_the_majority(letters: str, right: bool) -> None:
    """Replies without an answer do not vote; of equally frequent answers, the first one given counts."""
    assert majority_is_right(replies(letters)) is right


def test_options_with_the_same_text_are_one_answer() -> None:
    assert not majority_is_right(replies("BBAC", options=("cat", "dog", "owl", "cat")))
    assert majority_is_right(replies("BBADD", options=("cat", "dog", "owl", "cat")))


def test_an_item_with_fewer_replies_is_left_out() -> None:
    whole = [replace(record, id="whole") for record in replies("AAB")]
    scores = repeat_scores([*whole, *replies("AA")])
    assert (scores["replies"], scores["items"], scores["mean"]["accuracy"]) == (3, 1, pytest.approx(2 / 3))
    assert repeat_scores([])["items"] == 0


def test_the_variants_of_a_run() -> None:
    assert expected_variants({}) == [(0, None)]
    variants = expected_variants({"repeats": 2, "thinking_curve": [0, 8]})
    assert variants == [(0, None), (0, 0), (0, 8), (1, None), (1, 0), (1, 8)]
    records = [replace(replies("A")[0], repeat=r, thinking_budget=b) for r, b in variants]
    assert finished_items(records, variants) == {"item-0"}
    assert finished_items(records[1:], variants) == set()


def test_clips_with_several_questions(make_run: RunMaker) -> None:
    """Two clips, one all right and one all wrong, are two observations and not six."""
    records = [
        grade_record(replace(record, media={"video": f"{i // 3}.mp4"}), "paper")
        for i, record in enumerate(make_records("mmau", [reply(letter) for letter in "AAABBB"]))
    ]
    score = strict_score(records)
    assert score["standard_error"] == pytest.approx((0.25 / 5) ** 0.5)
    assert score["clustered"]["clips"] == 2
    assert score["clustered"]["standard_error"] == pytest.approx((2 * (1.5**2 + 1.5**2)) ** 0.5 / 6)
    low, high = score["clustered"]["interval"]
    assert low < score["interval"][0] < score["interval"][1] < high


def test_scoring_keeps_all_replies(make_run: RunMaker) -> None:
    """`records.jsonl` alone is a complete run too, with several replies per item."""
    from avrt.evaluation.records.log import RecordWriter, read_all_records

    run = make_run("run", "mmau", [reply("A"), reply("B")], decoding={"repeats": 2})
    with pytest.raises(ValueError, match="0 of 2 items"):
        score_run(run)
    second = [replace(record, repeat=1) for record in make_records("mmau", [reply("B"), reply("A")])]
    with RecordWriter(run / "mmau", 1) as writer:
        writer.append(*second)
    (scored,) = score_run(run)
    assert scored.metrics["repeats"]["pass_at"] == {"1": 0.5, "2": 1.0}
    assert [record.repeat for record in scored.records] == [0, 0]
    write_scores(scored)
    for path in (run / "mmau").glob("records.rank*"):
        path.unlink()
    assert len(read_all_records(run / "mmau")) == 4
    (again,) = score_run(run)
    assert again.metrics == scored.metrics
