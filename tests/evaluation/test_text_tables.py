"""Tables as text in any width, as Markdown, as LaTeX, and as CSV."""

from __future__ import annotations

import csv
import io
import re

import pytest
from rich.console import Console

from avrt.cli import main
from avrt.evaluation.comparison import compare
from avrt.evaluation.comparison_tables import as_csv, comparison_tables
from avrt.evaluation.published_results import COLUMNS
from avrt.evaluation.scoring import score_run
from avrt.evaluation.terminal_tables import print_scores
from avrt.evaluation.text_tables import Row, TextTable, as_latex, as_markdown, print_table
from tests.evaluation.conftest import RunMaker, reply


def printed(table: TextTable, width: int) -> list[str]:
    out = io.StringIO()
    print_table(table, Console(file=out, width=width))
    return out.getvalue().splitlines()


@pytest.fixture
def result(make_run: RunMaker) -> dict:
    for number, name in enumerate(COLUMNS):
        first = make_run("base", name, [reply("AB"[n % 2]) for n in range(20)], model="org/base_model-3B")
        second = make_run("ours", name, [reply("AAB"[(n + number) % 3]) for n in range(20)], model="org/base_model-3B")
    return compare(first, second)


@pytest.mark.parametrize("width", [60, 80, 120, 200, 400])
def test_no_number_is_broken_in_any_width(result: dict, width: int) -> None:
    """All numbers of the widest table, in lines that fit."""
    for table in comparison_tables(result):
        lines = printed(table, width)
        assert max(map(len, lines)) <= width
        for text in {cell for group in table.groups for row in group for cell in row.cells} - {""}:
            assert any(text in line for line in lines), text
        for head in table.heads:
            assert any(head in line for line in lines), head


def test_a_pipe_has_the_width_of_columns(
    make_run: RunMaker, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in COLUMNS:
        run = make_run("run", name, [reply("A"), reply("B")])
    widths = {}
    for columns in ("60", "80", "120", None):
        monkeypatch.delenv("COLUMNS", raising=False)
        if columns is not None:
            monkeypatch.setenv("COLUMNS", columns)
        assert main(["compare", str(run)]) == 0
        lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith(("Published", "*"))]
        widths[columns] = max(map(len, lines))
    assert widths["60"] <= 60
    assert widths["80"] <= 80
    assert widths[None] <= 120
    assert widths["60"] < widths["80"] < widths["120"]


def test_only_columns_that_were_run_are_shown(make_run: RunMaker) -> None:
    table, errors = comparison_tables(compare(make_run("run", "mmau", [reply("A"), reply("B")])))
    assert table.heads == errors.heads == ("MMAU",)
    labels = [row.label for row in table.groups[-1]]
    lines = printed(table, 80)
    assert "Ola 7B" in labels
    assert not any("Ola 7B" in line or "AVATAR" in line for line in lines)  # no number in this column
    assert any(line.split() == ["items", "2"] for line in lines)
    assert any(line.split() == ["of", "all", "1,000"] for line in lines)
    assert any(line.split() == ["published:", "items", "1,000"] for line in lines)


TABLE = TextTable(
    "100 % of A_B",
    "model",
    ("one & two", "p < 1"),
    (
        (Row("heading|1", ("", ""), "heading"), Row("a_b\\c^2~{x}", ("−1.0***", ""), "strong")),
        (Row("[x]", ("", "#–"), "minor"),),
    ),
    ("$note$",),
)


def test_markdown_cells_are_escaped_and_complete() -> None:
    lines = as_markdown(TABLE).splitlines()
    assert lines[0] == "**100 % of A\\_B**"
    rows = [line for line in lines if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {4}
    assert rows[3] == "| **a\\_b\\\\c^2~{x}** | **−1.0\\*\\*\\*** |  |"
    assert "heading\\|1" in rows[2]


def test_latex_is_escaped_and_balanced() -> None:
    text = as_latex(TABLE)
    assert "one \\& two & p $<$ 1 \\\\" in text
    assert r"\textbf{a\_b\textbackslash{}c\textasciicircum{}2\textasciitilde{}\{x\}} & \textbf{$-$1.0***} &  \\" in text
    assert r"\quad [x] &  & \#-- \\" in text
    body = text[text.index("\\toprule") : text.index("\\bottomrule")]
    rows = [line for line in body.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {2}


def test_names_of_others_reach_neither_latex_nor_the_terminal(make_run: RunMaker) -> None:
    """A line break would end a comment of LaTeX, and an escape sequence would be obeyed by the terminal."""
    run = make_run("run", "mmau", [reply("A"), reply("B")])
    name = "x\n\\input{secret}\x1b]0;title\x07"
    tables = comparison_tables(compare(run, make_run("other", "mmar", [reply("A")]), names=[name, "other"]))
    for table in tables:
        assert all(not line.lstrip().startswith("\\input") for line in as_latex(table).splitlines())
        assert "\x1b" not in as_latex(table) + as_markdown(table) + "\n".join(printed(table, 80))


def test_csv_has_every_number(result: dict) -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(result))))
    runs = [row for row in rows if row["kind"] == "run" and row["benchmark"] in COLUMNS]
    assert len(runs) == 16
    for row in runs:
        run = result["runs"][["base (base_model-3B)", "ours (base_model-3B)"].index(row["label"])]
        score = run["benchmarks"][row["benchmark"]]
        assert float(row["percent"]) == pytest.approx(100 * score["accuracy"], abs=1e-5)
        assert float(row["logic_errors"]) == pytest.approx(100 * score["errors"]["logic"], abs=1e-5)
        assert (row["items"], row["model"]) == ("20", "org/base_model-3B")
    differences = [row for row in rows if row["kind"] == "difference"]
    assert [row["benchmark"] for row in differences] == [*COLUMNS, "av_average", "audio_average"]
    published = {(row["label"], row["benchmark"]): row for row in rows if row["kind"] == "published"}
    assert (published["AVRT 3B", "mmau"]["percent"], published["AVRT 3B", "mmau"]["items"]) == ("70.0", "1000")


@pytest.mark.parametrize("form", ["markdown", "latex", "csv"])
def test_formats_by_command(make_run: RunMaker, capsys: pytest.CaptureFixture[str], form: str) -> None:
    run = make_run("run", "omnibench", [reply("A"), reply("B")])
    assert main(["compare", str(run), str(run), "--names", "one", "two", "--format", form]) == 0
    text = capsys.readouterr().out
    assert {"markdown": "| **two** | **50.0** |", "latex": r"\textbf{two} & \textbf{50.0}", "csv": "run,two,tiny,"}[
        form
    ] in text


def test_one_name_per_run(make_run: RunMaker, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run("run", "omnibench", [reply("A")])
    assert main(["compare", str(run), "--names", "one", "two"]) == 1
    assert "--names: give one name per run, 1; got 2" in capsys.readouterr().err


def test_scores_say_why_an_official_score_is_low(make_run: RunMaker) -> None:
    out = io.StringIO()
    run = make_run("run", "dailyomni", [reply("A")] * 3 + [reply("B")])
    print_scores(score_run(run), Console(file=out, width=80))
    row = next(line.split() for line in out.getvalue().splitlines() if line.startswith("dailyomni  "))
    assert row[:3] == ["dailyomni", "4", "75.0"]
    assert row[-2:] == ["0.0", "75.0"] or [row[5], row[6]] == ["0.0", "75.0"]
    assert "dailyomni: the official rule expects the answer alone" in out.getvalue()
