"""Finished runs on subsets: the paper's Tables 8 and 9 from runs on the whole benchmark."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from avrt.cli import main
from avrt.evaluation.comparison import compare
from avrt.evaluation.published_results import published_analysis
from avrt.evaluation.scoring import score_run
from tests.evaluation.conftest import RunMaker, reply


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    """30 items: 5 easy, 10 medium, 15 hard."""
    folder = tmp_path / "subsets"
    folder.mkdir()
    for name, part in (("hard", range(15, 30)), ("easy", range(5)), ("medium", range(5, 15))):
        (folder / f"{name}.txt").write_text("".join(f"item-{n}\n" for n in part))
    return folder


def answers(right: set[int], garbled: set[int] = frozenset()) -> list[str]:  # type: ignore[assignment]
    return ["nothing" if n in garbled else reply("A" if n in right else "B") for n in range(30)]


def test_difficulty_rows_from_finished_runs(make_run: RunMaker, lists: Path) -> None:
    base = make_run("base", "omnibench", answers({0, 1, 5, 15, 16, 17}))
    ours = make_run("ours", "omnibench", answers({0, 1, 2, 5, 6, *range(15, 24)}))
    result = compare(base, ours, subsets=[lists])
    assert list(result["columns"]) == ["omnibench:easy", "omnibench:medium", "omnibench:hard"]
    for row, expected in zip(result["runs"], ([2, 1, 3], [3, 2, 9]), strict=True):
        scores = row["benchmarks"].values()
        assert [score["correct"] for score in scores] == expected
        assert [score["items"] for score in scores] == [5, 10, 15]
    changes = result["comparisons"][0]["differences"]
    assert [change["difference"] for change in changes.values()] == [1 / 5, 1 / 10, 6 / 15]
    paper = {row["label"]: row["scores"] for row in result["published"]}
    assert [paper["AVRT 3B"][column] for column in result["columns"]] == [76.9, 59.2, 51.8]
    assert [column["published_items"] for column in result["columns"].values()] == [64, 456, 619]


def test_a_run_on_the_subset_alone_is_compared_with_one_on_all(make_run: RunMaker, lists: Path) -> None:
    whole = make_run("whole", "omnibench", answers({0, 1}))
    part = make_run("part", "omnibench", answers({0, 1, 2})[:5], dataset_fingerprint="1" * 64, subset="easy")
    with pytest.raises(ValueError, match=r"answered different questions.*--subset"):
        compare(whole, part)
    result = compare(whole, part, subsets=[lists / "easy.txt"])
    assert [row["benchmarks"]["omnibench:easy"]["correct"] for row in result["runs"]] == [2, 3]
    # The same ids with other questions are another benchmark.
    path = next((part / "omnibench").glob("records.rank*"))
    path.write_text(path.read_text().replace("Which animal is heard?", "Which one?"))
    with pytest.raises(ValueError, match="answered different questions \\(for instance 'item-0'"):
        compare(whole, part, subsets=[lists / "easy.txt"])


def test_errors_in_percent_of_all_items(make_run: RunMaker, capsys: pytest.CaptureFixture[str]) -> None:
    """Table 9: 3 format errors and 6 logic errors of 30."""
    run = make_run("run", "omnibench", answers(set(range(21)), garbled={27, 28, 29}))
    errors = compare(run)["runs"][0]["benchmarks"]["omnibench"]["errors"]
    assert errors == {"instruction_format": 0.1, "logic": 0.2, "no_reply": 0.0}
    assert main(["compare", str(run)]) == 0
    printed = capsys.readouterr().out
    values = [
        re.findall(r"[\d.]+$", line)[0] for line in printed.splitlines() if "errors" in line and line[-1].isdigit()
    ]
    assert values == ["10.0", "20.0", "0.9", "48.9", "0.2", "43.0"]  # this run's, then the paper's two rows


def test_the_papers_tables_8_and_9_are_its_text(real_data: Path) -> None:
    paper = real_data.parent / "paper.txt"
    if not paper.is_file():
        pytest.skip("the paper's text not found: this test needs `shared/paper.txt` beside the checkout")
    text = paper.read_text(encoding="utf-8")
    analysis = published_analysis()
    for label, name in (("Qwen2.5-Omni 3B", "Baseline"), ("AVRT 3B", "AVRT")):
        easy, medium, hard = analysis.accuracy[label].values()
        assert f"\n{name} {easy} {medium} {hard}\n" in text
        errors = analysis.errors[label]
        assert f"\n{name} {errors['instruction_format']} {errors['logic']}\n" in text
    for name, items in analysis.items.items():
        assert re.search(rf"{name} \([^)]*, {items} questions\)", text)


def test_score_prints_subsets_and_rewrites_nothing(
    make_run: RunMaker, lists: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # the whole table in one part
    run = make_run("run", "omnibench", answers({0, 1, 2, 20}))
    assert main(["score", str(run)]) == 0
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert main(["score", str(run), "--subset", str(lists)]) == 0
    printed = capsys.readouterr().out
    rows = [line.split()[:4] for line in printed.splitlines() if line.startswith("omnibench ")]
    assert rows == [
        ["omnibench", "easy", "5", "60.0"],
        ["omnibench", "medium", "10", "0.0"],
        ["omnibench", "hard", "15", "6.7"],
    ]
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert json.loads(before[run / "omnibench" / "metrics.json"])["strict"]["items"] == 30


def test_an_unfinished_run_has_the_subsets_that_it_has(make_run: RunMaker, lists: Path) -> None:
    run = make_run("run", "omnibench", answers({0})[:7], items=30)
    assert compare(run, subsets=[lists / "easy.txt"])["runs"][0]["benchmarks"]["omnibench:easy"]["items"] == 5
    with pytest.raises(ValueError, match="has 2 of the 10 items of subset medium; resume the run, or pass --partial"):
        compare(run, subsets=[lists / "medium.txt"])
    with pytest.raises(ValueError, match="has 7 of 30 items"):
        score_run(run)


def test_an_empty_list_of_a_folder_is_left_out(
    make_run: RunMaker, lists: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As `subsets` writes it for a benchmark without hard questions."""
    run = make_run("run", "omnibench", answers({0, 1}))
    (lists / "hard.txt").write_text("")
    assert list(compare(run, run, subsets=[lists])["columns"]) == ["omnibench:easy", "omnibench:medium"]
    assert "hard.txt: lists no ids" in caplog.text
    with pytest.raises(ValueError, match=r"hard.txt: lists no ids"):
        compare(run, run, subsets=[lists / "hard.txt"])


def test_lists_that_do_not_fit_are_refused(make_run: RunMaker, lists: Path, tmp_path: Path) -> None:
    make_run("run", "mmau", answers({0}))
    run = make_run("run", "omnibench", answers({0}))
    with pytest.raises(ValueError, match=r"--subset easy: its ids must be of one benchmark.*mmau, omnibench have them"):
        compare(run, subsets=[lists])
    assert compare(run / "mmau", subsets=[lists])["runs"][0]["run"] == "run"
    (tmp_path / "other.txt").write_text("item-1\nitem-99\n")
    with pytest.raises(ValueError, match=r"--subset other: 1 of its 2 ids are no items of .*item-99"):
        compare(run / "mmau", subsets=[tmp_path / "other.txt"])
    with pytest.raises(ValueError, match=r"--subset: .*absent.txt does not exist"):
        compare(run, subsets=[tmp_path / "absent.txt"])
    with pytest.raises(ValueError, match="--subset: two lists are named easy"):
        compare(run, subsets=[lists, lists / "easy.txt"])
