"""Runs side by side, in the form of the paper's Table 3."""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from avrt.commands import compare as compare_command
from avrt.evaluation.comparison import Score, compare
from avrt.evaluation.published_results import COLUMNS, average_of, averaged, published_table3
from avrt.evaluation.scoring import score_run
from tests.evaluation.conftest import RunMaker, reply

METHOD_7 = {
    "Qwen2.5-Omni 3B": (88.3, 43.1, 50.2, 55.4, 62.4, 38.4, 53.7, 61.1),
    "AVRT 3B": (91.1, 49.2, 56.3, 62.6, 71.3, 49.3, 57.3, 70.0),
    "Qwen2.5-Omni 7B": (84.9, 51.5, 50.7, 58.1, 74.9, 41.3, 56.5, 71.9),
    "AVRT 7B": (90.4, 54.4, 57.1, 64.1, 75.3, 50.7, 59.1, 75.4),
}


def run_compare(*words: str) -> int:
    parser = argparse.ArgumentParser()
    compare_command.add_arguments(parser)
    return compare_command.run(parser.parse_args(list(words)))


def comparison(result: dict[str, Any], number: int = 0) -> dict[str, Any]:
    """The comparison of a further run with the first."""
    return result["comparisons"][number]


def replies(share: float, items: int, seed: int) -> list[str]:
    generator = random.Random(seed)
    return [reply("A" if generator.random() < share else "B") for _ in range(items)]


@pytest.fixture
def two_runs(make_run: RunMaker) -> tuple[Path, Path]:
    """Two full rows of the table: the second is better on every benchmark but one."""
    for number, name in enumerate(COLUMNS):
        first = make_run("first", name, replies(0.4, 150, number))
        second = make_run("second", name, replies(0.4 if name == "mmar" else 0.6, 150, number + 100))
    return first, second


def test_published_numbers() -> None:
    rows, source = published_table3()
    assert "2604.16617" in source
    by_label = {row.label: row for row in rows}
    for label, numbers in METHOD_7.items():
        assert by_label[label].scores == dict(zip(COLUMNS, numbers, strict=True))
    assert len(rows) == 16
    assert by_label["video-SALMONN-o1 7B"].scores["dailyomni"] == 64.0
    assert "mmau" not in by_label["Kimi-VL-Thinking"].scores
    for row in rows:
        for name in ("av_average", "audio_average"):
            printed, formed = getattr(row, name), average_of(row.scores, name)
            # Rounded to one digit; the paper rounds halves up.
            assert (printed is None) == (formed is None)
            assert printed is None or abs(printed - formed) < 0.0501
    assert averaged("av_average") == list(COLUMNS)[1:6]
    assert averaged("audio_average") == ["mmar", "mmau"]


def test_the_printed_table_is_the_papers_text(real_data: Path) -> None:
    """Every number of the data file is in the paper's own row of Table 3."""
    paper = real_data.parent / "paper.txt"
    if not paper.is_file():
        pytest.skip("the paper's text not found: this test needs `shared/paper.txt` beside the checkout")
    text = paper.read_text(encoding="utf-8")
    table = text[text.index("30B Audio-Visual Models") : text.index("Table 3: Comparison")]
    lines = table.splitlines()
    for row in published_table3()[0]:
        values = [f"{value:.1f}" for value in row.scores.values()]
        values += [f"{value:.1f}" for value in (row.av_average, row.audio_average) if value is not None]
        key = row.model.replace("Qwen2.5-Omni", "Qwen2.5 Omni").split(" ")[0].lower()
        matching = [line for line in lines if key in line.lower().replace("v-salmonn", "video-salmonn")]
        assert any(all(value in line.split() for value in values) for line in matching), row


def test_comparison_equals_scipy_and_statsmodels(two_runs: tuple[Path, Path]) -> None:
    result = compare(*two_runs)
    assert list(comparison(result)["differences"]) == list(COLUMNS)
    first, second = ({run.info.benchmark: run.records for run in score_run(path)} for path in two_runs)
    p_values = []
    for name, difference in comparison(result)["differences"].items():
        a = [bool(record.correct_strict) for record in first[name]]
        b = [bool(record.correct_strict) for record in second[name]]
        lost, won = (
            sum(x and not y for x, y in zip(a, b, strict=True)),
            sum(y and not x for x, y in zip(a, b, strict=True)),
        )
        assert (difference["only_first"], difference["only_second"]) == (lost, won)
        assert difference["difference"] == (won - lost) / 150
        p_values.append(stats.binomtest(won, won + lost).pvalue)
        assert difference["p_value"] == pytest.approx(p_values[-1], abs=1e-12)
        assert difference["interval"][0] < difference["difference"] < difference["interval"][1]
    expected = multipletests(p_values, method="holm")[1]
    assert [d["p_holm"] for d in comparison(result)["differences"].values()] == pytest.approx(list(expected), abs=1e-12)


def test_averages_leave_avqa_out_and_their_interval_is_narrower(two_runs: tuple[Path, Path]) -> None:
    result = compare(*two_runs)
    one, two = result["runs"]
    names = averaged("av_average")
    for row in (one, two):
        assert row["av_average"] == pytest.approx(sum(row["benchmarks"][n]["accuracy"] for n in names) / 5, abs=1e-12)
    average = comparison(result)["averages"]["av_average"]
    differences = comparison(result)["differences"]
    assert average["difference"] == pytest.approx(two["av_average"] - one["av_average"], abs=1e-12)
    width = average["interval"][1] - average["interval"][0]
    widths = [differences[name]["interval"][1] - differences[name]["interval"][0] for name in names]
    # Five independent benchmarks: narrower by the square root of five.
    assert width == pytest.approx(sum(widths) / 5 / 5**0.5, rel=0.1)


def test_the_same_runs_give_the_same_numbers(two_runs: tuple[Path, Path]) -> None:
    assert compare(*two_runs) == compare(*two_runs)
    same = comparison(compare(two_runs[0], two_runs[0]))["differences"]["mmau"]
    assert (same["difference"], same["interval"], same["p_value"], same["p_holm"]) == (0.0, [0.0, 0.0], 1.0, 1.0)


def test_the_printed_table(two_runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run_compare(*map(str, two_runs), "--json", str(tmp_path / "out.json")) == 0
    printed = capsys.readouterr().out
    result = json.loads((tmp_path / "out.json").read_text())
    assert result == compare(*two_runs)
    line = next(line for line in printed.splitlines() if "difference" in line)
    assert max(map(len, printed.splitlines()[:30])) <= 120
    assert f"{100 * comparison(result)['differences']['omnibench']['difference']:+.1f}" in line
    for text in (
        "AVQA",
        "Riva-A",
        "AV Avg.",
        "A Avg.",
        "AVRT 3B",
        "57.7",
        "Qwen3-Omni 30B",
        "arXiv 2604.16617",
        "<0.001***",
    ):
        assert text in printed
    assert "…" not in printed  # nothing cut off, however narrow the screen
    assert run_compare(*map(str, two_runs), "--json", "-") == 0
    assert json.loads(capsys.readouterr().out) == result


def test_one_run_alone_and_benchmarks_in_one_only(make_run: RunMaker, capsys: pytest.CaptureFixture[str]) -> None:
    first = make_run("first", "mmau", replies(0.5, 20, 0))
    assert run_compare(str(first)) == 0
    assert "difference" not in capsys.readouterr().out
    make_run("second", "mmau", replies(0.5, 20, 1))
    second = make_run("second", "mmar", replies(0.5, 20, 1))
    assert run_compare(str(first), str(second)) == 0
    assert "not compared: MMAR" in capsys.readouterr().out
    result = compare(first, second)
    assert comparison(result)["averages"] == {}
    assert comparison(result)["only_in_one"] == ["mmar"]
    assert result["runs"][0]["audio_average"] is None
    assert result["runs"][1]["audio_average"] is not None


def test_masks_are_named_in_the_table(make_run: RunMaker, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run("ablation", "omnibench", replies(0.5, 20, 0), modalities="A")
    assert run_compare(str(run)) == 0
    assert "ablation (tiny) [A]" in capsys.readouterr().out


def test_the_official_score_can_be_compared_too(make_run: RunMaker) -> None:
    first = make_run("first", "dailyomni", ["A", reply("A")])
    second = make_run("second", "dailyomni", ["A", "A"])
    result = compare(first, second, score="official")
    assert [run["benchmarks"]["dailyomni"]["accuracy"] for run in result["runs"]] == [0.5, 1.0]
    assert comparison(result)["differences"]["dailyomni"]["difference"] == 0.5
    on_answer = compare(first, second, score="official_answer")
    assert [run["benchmarks"]["dailyomni"]["accuracy"] for run in on_answer["runs"]] == [1.0, 1.0]


def assert_one_denominator(result: dict[str, Any]) -> None:
    """Every difference is that of two rows, and over the same number of items."""
    for compared in result["comparisons"]:
        one, two = (result["runs"][compared[key]] for key in ("reference", "run"))
        for name, change in compared["differences"].items():
            rows = [run["benchmarks"][name] for run in (one, two)]
            assert [row["items"] for row in rows] == [change["items"]] * 2
            assert change["difference"] == pytest.approx(rows[1]["accuracy"] - rows[0]["accuracy"], abs=1e-12)
        for name, change in compared["averages"].items():
            assert change["difference"] == pytest.approx(two[name] - one[name], abs=1e-12)


@pytest.mark.parametrize("score", ["strict", "official", "official_answer"])
def test_accuracies_and_differences_have_one_denominator(make_run: RunMaker, score: Score) -> None:
    """Over replies that some rules leave out and others do not, in every benchmark."""
    folders = {}
    for number, name in enumerate(COLUMNS):
        for run in ("first", "second", "third"):
            generator = random.Random(f"{run}{number}")
            texts = ["A", "B", "I cannot tell.", "", reply("A"), "cat", "A cat"]
            folders[run] = make_run(run, name, [generator.choice(texts) for _ in range(60)])
    assert_one_denominator(compare(*folders.values(), score=score))


def test_a_run_that_leaves_half_unanswered_does_not_win_by_it(
    make_run: RunMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    """Video-MME's rule leaves unanswered items out: the accuracy rises with every one, and the difference did not."""
    half = make_run("half", "videomme", ["A"] * 63 + ["B"] * 37 + ["i cannot tell"] * 100)
    all_answered = make_run("all", "videomme", ["A"] * 120 + ["B"] * 80)
    result = compare(half, all_answered, score="official")
    assert_one_denominator(result)
    one, two = (run["benchmarks"]["videomme"] for run in result["runs"])
    assert (one["accuracy"], two["accuracy"]) == (0.315, 0.6)
    assert (one["items"], two["items"]) == (200, 200)
    assert (one["counted"]["accuracy"], one["counted"]["items"]) == (0.63, 100)
    assert comparison(result)["differences"]["videomme"]["difference"] == pytest.approx(0.285)
    assert run_compare(str(half), str(all_answered), "--official") == 0
    printed = capsys.readouterr().out
    for text in ("31.5", "60.0", "+28.5", "63.0 of 100", "counts as wrong"):
        assert text in " ".join(printed.split())


def test_unfinished_runs_are_compared_over_the_items_of_both(
    make_run: RunMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    first = make_run("first", "mmau", [reply("A")] * 8 + [reply("B")] * 4, items=20)
    second = make_run("second", "mmau", [reply("B")] * 10, items=20)
    for score in ("strict", "official"):
        assert_one_denominator(compare(first, second, partial=True, score=score))  # type: ignore[arg-type]
    assert compare(first, second, partial=True)["runs"][0]["benchmarks"]["mmau"]["accuracy"] == 0.8
    assert run_compare(str(first), str(second), "--partial") == 0
    said = "MMAU: over the 10 items that all of its runs have (first (tiny) 12, second (tiny) 10)."
    assert said in " ".join(capsys.readouterr().out.split())
    nothing = make_run("third", "mmau", [], items=20)
    with pytest.raises(ValueError, match="no items in common"):
        compare(first, nothing, partial=True)


def test_any_number_of_runs(make_run: RunMaker) -> None:
    """Each run is compared with the first; Holm's correction is over all tests of the table."""
    runs = [make_run(name, "mmau", replies(0.3 + 0.1 * n, 200, n)) for n, name in enumerate("abcd")]
    result = compare(*runs)
    assert [(c["run"], c["reference"]) for c in result["comparisons"]] == [(1, 0), (2, 0), (3, 0)]
    tests = [c["differences"]["mmau"] for c in result["comparisons"]]
    expected = multipletests([test["p_value"] for test in tests], method="holm")[1]
    assert [test["p_holm"] for test in tests] == pytest.approx(list(expected), abs=1e-12)
    for number, other in enumerate(runs[1:]):
        alone = comparison(compare(runs[0], other))["differences"]["mmau"]
        assert tests[number] | {"p_holm": 0} == alone | {"p_holm": 0}
    assert_one_denominator(result)


def test_three_unfinished_runs_have_one_denominator(make_run: RunMaker) -> None:
    runs = [make_run(name, "mmau", replies(0.5, 20 - 5 * n, n), items=40) for n, name in enumerate("abc")]
    result = compare(*runs, partial=True)
    assert [row["benchmarks"]["mmau"]["items"] for row in result["runs"]] == [10, 10, 10]
    assert [row["benchmarks"]["mmau"]["recorded"] for row in result["runs"]] == [20, 15, 10]
    assert_one_denominator(result)


def test_different_questions_cannot_be_compared(make_run: RunMaker) -> None:
    first = make_run("first", "mmau", replies(0.5, 20, 0))
    second = make_run("second", "mmau", replies(0.5, 20, 0), dataset_fingerprint="other")
    with pytest.raises(ValueError, match="answered different questions"):
        compare(first, second)
    with pytest.raises(ValueError, match="--resamples must be at least 100"):
        run_compare(str(first), "--resamples", "3")
