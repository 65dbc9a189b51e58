"""Scores from verdicts, against numbers worked out by hand and against scipy; and the paper's numbers."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console
from scipy.stats import binomtest

from avrt.judging.scores import score_verdicts
from avrt.judging.tables import print_judgments, published_quality
from avrt.traces.verdicts import VerdictRecord

WINNER = {"A": "ACCURATE", "B": "HALLUCINATING", "Tie": "ACCURATE"}


def record(mode: Any, sample: int, verdict: dict[str, Any] | None, **changes: Any) -> VerdictRecord:
    fields: dict[str, Any] = {
        "mode": mode,
        "sample": f"q{sample}",
        "source": f"c{sample}",
        "set": "x",
        "against": "",
        "trace_sha256": "",
        "against_sha256": "",
        "streams": "AV",
        "status": "ok" if verdict else "bad_json",
        "bad_replies": 0 if verdict else 3,
        "error": "",
        "key": "",
        "verdict": verdict,
    }
    return VerdictRecord(**{**fields, **changes})


def individual(sample: int, verdict: str, audio: bool = True, visual: bool = True, **changes: Any) -> VerdictRecord:
    reply = {"verdict": verdict, "audio_grounded": audio, "visual_grounded": visual}
    return record("individual", sample, reply, **changes)


def compared(sample: int, one: str, two: str) -> list[VerdictRecord]:
    """Both orders of a sample; the words of the judge."""
    found = []
    for winner, (first, second) in ((one, ("x", "y")), (two, ("y", "x"))):
        reply: dict[str, Any] = {"winner": winner}
        for letter in "ab":
            reply |= {f"trace_{letter}_verdict": "ACCURATE"}
            reply |= {f"trace_{letter}_{stream}_grounded": True for stream in ("audio", "visual")}
        found.append(record("head_to_head", sample, reply, set=first, against=second))
    return found


def test_shares_and_wilsons_interval() -> None:
    records = [individual(i, "ACCURATE") for i in range(7)]
    records += [individual(7, "MISSING_INFO", audio=False, streams="V"), individual(8, "HALLUCINATING", visual=False)]
    records.append(record("individual", 9, None))
    found = score_verdicts(records, ["x"])["individual"]["x"]
    assert (found["asked"], found["judged"], found["outcomes"]) == (10, 9, {"bad_json": 1, "ok": 9})
    assert found["bad_replies"] == 3
    for row, count, total in (
        ("accurate", 7, 9),
        ("missing_info", 1, 9),
        ("hallucinating", 1, 9),
        ("audio_grounded", 8, 8),  # the clip without sound does not count
        ("visual_grounded", 8, 9),
    ):
        share = found["rows"][row]
        expected = binomtest(count, total).proportion_ci(method="wilson")
        assert (share["count"], share["total"], share["share"]) == (count, total, count / total)
        assert share["interval"] == pytest.approx([expected.low, expected.high])


def test_sources_are_shares_of_all_judged_traces() -> None:
    records = [individual(i, "HALLUCINATING" if i < 4 else "ACCURATE") for i in range(10)]
    for sample, source, claims in (
        (0, "BOTH_TEACHERS", ["AUDIO_TEACHER", "VISION_TEACHER"]),
        (1, "MERGER", ["MERGER"]),
        (2, "NONE", []),
    ):
        reply = {"hallucination_source": source, "source_per_claim": claims, "merger_faithful": source != "MERGER"}
        records.append(record("source", sample, {**reply, "audio_teacher_accurate": sample > 0}))
    records.append(record("source", 3, None))
    found = score_verdicts(records, ["x"])["source"]["x"]
    assert {source: row["share"] for source, row in found["rows"].items()} == {
        "AUDIO_TEACHER": 0.0,
        "BOTH_TEACHERS": 0.1,
        "MERGER": 0.1,
        "NONE": 0.1,
        "not_attributed": 0.1,
    }
    assert {source: row["count"] for source, row in found["claims"].items()} == {
        "AUDIO_TEACHER": 1,
        "VISION_TEACHER": 1,
        "MERGER": 1,
    }
    assert (found["flags"]["merger_faithful"]["count"], found["flags"]["audio_teacher_accurate"]["count"]) == (2, 2)
    assert found["confirmed"]["share"] == 2 / 3


def test_head_to_head_by_hand() -> None:
    """x wins both orders of 0 and 6, y of 1; A wins both of 2, B of 3; 4 is a win and a tie for x; 5 is a tie."""
    pairs = [("A", "B"), ("B", "A"), ("A", "A"), ("B", "B"), ("A", "Tie"), ("Tie", "Tie"), ("A", "B")]
    records = [r for sample, (one, two) in enumerate(pairs) for r in compared(sample, one, two)]
    records += compared(7, "A", "A")[:1]  # without the other order it says nothing
    found = score_verdicts(records, ["x", "y"])["head_to_head"]
    assert (found["samples"], found["incomplete"]) == (7, 1)
    assert counts(found["wins"]) == {"x": 7, "y": 4, "tie": 3}
    assert {row["total"] for row in found["wins"].values()} == {14}
    assert counts(found["both_orders"]) == {"x": 2, "y": 1, "tie": 1, "depends_on_order": 3}
    assert counts(found["by_order"]["x_first"]) == {"x": 4, "y": 2, "tie": 1}
    assert counts(found["by_order"]["y_first"]) == {"x": 3, "y": 2, "tie": 2}
    bias = found["position_bias"]
    assert (bias["first_wins"]["count"], bias["first_wins"]["total"]) == (6, 11)
    assert (bias["first_in_both"], bias["second_in_both"], bias["p_value"]) == (1, 1, 1.0)


def counts(shares: dict[str, Any]) -> dict[str, int]:
    return {name: share["count"] for name, share in shares.items()}


def test_a_judge_that_takes_the_first_one_has_no_winner_and_a_clear_bias() -> None:
    records = [r for sample in range(20) for r in compared(sample, "A", "A")]
    found = score_verdicts(records, ["x", "y"])["head_to_head"]
    assert found["wins"]["x"]["share"] == found["wins"]["y"]["share"] == 0.5
    assert found["both_orders"]["depends_on_order"]["share"] == 1.0
    assert found["position_bias"]["first_wins"]["share"] == 1.0
    assert found["position_bias"]["p_value"] == pytest.approx(binomtest(20, 20).pvalue)


def test_the_papers_numbers_add_up() -> None:
    paper = published_quality()
    for row in paper["individual"]:
        shares = row["shares"]
        assert shares["accurate"] + shares["hallucinating"] + shares["missing_info"] == pytest.approx(100, abs=0.15)
    sources = paper["individual"][0]["sources"].values()
    assert sum(sources) == pytest.approx(paper["individual"][0]["shares"]["hallucinating"], abs=0.15)
    assert sum(paper["head_to_head"].values()) == pytest.approx(100, abs=0.15)


@pytest.mark.parametrize("width", [70, 160])
def test_tables_print_every_number_at_any_width(width: int) -> None:
    records = [individual(i, "ACCURATE", set=name) for i in range(3) for name in ("x", "y")]
    records += [individual(3, "HALLUCINATING"), individual(3, "ACCURATE", set="y")]
    records.append(record("source", 3, {"hallucination_source": "SPEECH_2_TEACHER", "source_per_claim": []}))
    records += compared(0, "A", "Tie")
    console = Console(width=width, record=True, file=io.StringIO())
    print_judgments(json.loads(json.dumps(score_verdicts(records, ["x", "y"]))), console)
    text = console.export_text()
    for word in ("75.0", "Speech 2 teacher only", "Both teachers", "6.7", "81.3", "Preferred", "38.5", "50.0", "10.2"):
        assert word in text, word
