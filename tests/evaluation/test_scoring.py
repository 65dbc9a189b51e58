"""From raw text to metrics: every item counts, and the same text always gives the same bytes."""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from statsmodels.stats.proportion import proportion_confint
from torchmetrics.classification import BinaryAccuracy

from avrt.commands import score as score_command
from avrt.evaluation.records.log import (
    METRICS_FILE,
    RECORDS_FILE,
    RecordWriter,
    read_records,
    write_records,
)
from avrt.evaluation.records.run_info import RunInfo
from avrt.evaluation.running_scores import RunningScores
from avrt.evaluation.scoring import grade_record, profile_for, score_run, summarize, write_scores
from tests.evaluation.conftest import RunMaker, make_records, merge_records, reply

REPLIES = [
    reply("A"),  # right
    reply("A") + " so A.",  # right, though text follows
    reply("B"),  # logic error
    "<think>hm</think><answer>a</answer>",  # not an option in the paper's profile
    "<think>hm",  # no answer
    "A",  # no tags
    "",
]


def run_score(*words: str) -> int:
    parser = argparse.ArgumentParser()
    score_command.add_arguments(parser)
    return score_command.run(parser.parse_args(list(words)))


def test_metrics_by_hand(make_run: RunMaker) -> None:
    (scored,) = score_run(make_run("run", "dailyomni", REPLIES))
    metrics = scored.metrics
    low, high = proportion_confint(2, 7, method="wilson")
    assert metrics["strict"]["correct"] == 2
    assert metrics["strict"]["items"] == 7
    assert metrics["strict"]["accuracy"] == 2 / 7
    assert metrics["strict"]["interval"] == pytest.approx([low, high], abs=1e-12)
    assert metrics["official"]["correct"] == 1  # the bare letter
    assert metrics["official"]["items"] == 7
    assert metrics["errors"] == {"none": 2, "instruction_format": 4, "logic": 1, "no_reply": 0}
    reasons = {"no_answer_tag": 2, "not_an_option": 1, "ok": 2, "trailing_text": 1, "unclosed_think": 1}
    assert metrics["reasons"] == reasons
    assert metrics["formatted"] == 3 / 7
    error = pytest.approx((0.25 * 0.75 / 3) ** 0.5)
    assert metrics["categories"]["kind"]["even"]["strict"] == {
        "correct": 1,
        "items": 4,
        "accuracy": 0.25,
        "interval": pytest.approx(list(proportion_confint(1, 4, method="wilson"))),
        "standard_error": error,
        # Every item is about a clip of its own.
        "clustered": {
            "clips": 4,
            "standard_error": error,
            "interval": pytest.approx(list(proportion_confint(0.75, 3, method="wilson"))),
        },
    }
    assert metrics["answers"] == {"A": 2, "B": 1, "none": 4}
    assert metrics["gold"] == {"A": 7}
    assert metrics["complete"] is True
    assert metrics["tokens"] == {"prompt_mean": 100.0, "completion_mean": 10.0, "completion_max": 10, "truncated": 0}


def test_accuracy_equals_torchmetrics(make_run: RunMaker) -> None:
    import torch

    generator = random.Random(0)
    replies = [reply(generator.choice("ABCD")) for _ in range(200)]
    (scored,) = score_run(make_run("run", "mmau", replies))
    outcomes = torch.tensor([record.correct_strict for record in scored.records]).int()
    assert scored.metrics["strict"]["accuracy"] == pytest.approx(
        float(BinaryAccuracy()(outcomes, torch.ones_like(outcomes))), abs=1e-7
    )


def test_the_profile_decides_how_replies_are_read(make_run: RunMaker) -> None:
    (strict,) = score_run(make_run("one", "mmau", ["A", "(a)", reply("A")]))
    (robust,) = score_run(make_run("two", "mmau", ["A", "(a)", reply("A")], profile="robust", answer_format="letter"))
    assert strict.metrics["strict"]["correct"] == 1
    assert robust.metrics["strict"]["correct"] == 3
    assert robust.metrics["formatted"] is None
    assert (profile_for("tags"), profile_for("letter")) == ("paper", "robust")


def test_truncated_replies_are_format_errors() -> None:
    cut = replace(make_records("mmau", ["<think>It is A because"])[0], finish_reason="length")
    scored = grade_record(cut, "paper")
    assert (scored.reason, scored.error_type, scored.correct_strict) == ("truncated", "instruction_format", False)


def test_items_without_a_reply_count_as_wrong(tmp_path: Path) -> None:
    answered, failed = make_records("videomme", [reply("A"), ""])
    failed = replace(failed, failure="missing_media", finish_reason="missing")
    RunInfo("run", "videomme", "m", 2, "f").write(tmp_path / "videomme")
    with RecordWriter(tmp_path / "videomme") as writer:
        writer.append(answered, failed)
    (scored,) = score_run(tmp_path)
    assert scored.metrics["strict"]["accuracy"] == 0.5
    assert scored.metrics["official"]["items"] == 1  # its own rule leaves it out
    assert scored.metrics["errors"]["no_reply"] == 1
    assert scored.records[1].reason == "missing_media"


def test_score_gives_the_same_bytes_twice_and_whatever_the_order(make_run: RunMaker) -> None:
    replies = [random.Random(i).choice(REPLIES) for i in range(101)]
    one = make_run("one", "mmar", replies)
    results = set()

    def take(run: Path) -> None:
        assert run_score(str(run)) == 0
        text = (run / "mmar" / METRICS_FILE).read_text().replace(f'"run": "{run.name}"', '"run": "-"')
        results.add((text, (run / "mmar" / RECORDS_FILE).read_bytes()))

    take(one)
    take(one)
    for number, ranks in enumerate((2, 5)):
        shuffled = make_run(f"shuffled{number}", "mmar", replies, ranks=ranks)
        paths = sorted((shuffled / "mmar").glob("records.rank*"))
        lines = [line for path in paths for line in path.read_text().splitlines()]
        random.Random(number).shuffle(lines)
        for rank, path in enumerate(paths):
            path.write_text("".join(line + "\n" for line in lines[rank::ranks]))
        take(shuffled)
    assert len(results) == 1


def test_score_ignores_derived_fields(make_run: RunMaker) -> None:
    run = make_run("run", "mmau", REPLIES)
    merge_records(run / "mmau")
    (honest,) = score_run(run)
    wrong = [
        replace(record, correct_strict=True, answer="A", error_type="none") for record in read_records(run / "mmau")
    ]
    write_records(run / "mmau", wrong)
    (scored,) = score_run(run)
    assert scored.metrics == honest.metrics
    write_scores(scored)
    assert read_records(run / "mmau") == scored.records
    assert json.loads((run / "mmau" / METRICS_FILE).read_text()) == scored.metrics


def test_latency_never_enters_the_metrics() -> None:
    info = RunInfo("run", "mmau", "m", 2, "f")
    records = [grade_record(record, "paper") for record in make_records("mmau", ["x", reply("A")])]
    timed = [replace(record, latency_seconds=1.0 + record.index) for record in records]
    assert summarize(timed, info) == summarize(records, info)


def test_unfinished_runs_need_the_option(make_run: RunMaker) -> None:
    run = make_run("run", "mmau", REPLIES, items=9)
    with pytest.raises(ValueError, match="has 7 of 9 items; resume the run, or pass --partial"):
        run_score(str(run))
    assert run_score(str(run), "--partial") == 0
    assert json.loads((run / "mmau" / METRICS_FILE).read_text())["complete"] is False


def test_mixed_runs_are_refused(make_run: RunMaker) -> None:
    with pytest.raises(ValueError, match="has 7 items instead of 3"):
        score_run(make_run("run", "mmau", REPLIES, items=3))
    run = make_run("other", "mmau", REPLIES)
    write_records(run / "mmau", make_records("mmar", REPLIES))
    with pytest.raises(ValueError, match=r"is of 'mmar', .*'mmau'"):
        score_run(run)


def test_a_question_set_of_ones_own_is_scored_strictly(make_run: RunMaker) -> None:
    (scored,) = score_run(make_run("run", "demo", [reply("A"), reply("B")]))
    assert scored.metrics["strict"]["accuracy"] == scored.metrics["official"]["accuracy"] == 0.5
    assert scored.metrics["official"]["rule"].startswith("ours")


def test_running_scores_end_at_the_final_numbers(make_run: RunMaker) -> None:
    replies = [random.Random(i).choice(REPLIES) for i in range(50)]
    (scored,) = score_run(make_run("run", "videomme", replies))
    running = RunningScores(prefix="test/")
    for start in range(0, 50, 7):
        running.add(scored.records[start : start + 7])
    shares = running.shares()
    metrics = scored.metrics
    assert shares["test/accuracy"] == pytest.approx(metrics["strict"]["accuracy"], abs=1e-6)
    assert shares["test/official_accuracy"] == pytest.approx(metrics["official"]["accuracy"], abs=1e-6)
    assert shares["test/logic_errors"] == pytest.approx(metrics["errors"]["logic"] / 50, abs=1e-6)
    assert shares["test/completion_tokens"] == 10
    with pytest.raises(ValueError, match="record 'item-0' is not scored"):
        running.add(make_records("mmau", ["x"]))
    running.reset()
    running.add(scored.records[:9])
    right = sum(bool(record.correct_strict) for record in scored.records[:9])
    assert running.shares()["test/accuracy"] == pytest.approx(right / 9)
