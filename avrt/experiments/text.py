"""Filled tables as tables of short texts, for the terminal, Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from avrt.evaluation.number_format import interval, p_value, percent, signed
from avrt.evaluation.text_tables import Row, TextTable
from avrt.experiments.results import Cell, RowResult, TableResult

METHOD = (
    "Share of all items in percent (strict score), mean over seeds; 95 % intervals by clip; differences from "
    "{reference}, with p of the exact sign-flip test by clip after Holm's correction over the table"
)


def text_table(result: TableResult, reference_title: str) -> TextTable:
    """One table; the paper's numbers are its last columns."""
    paper = [f"paper {title}".strip() for title in result.paper_columns]
    groups = [tuple(_rows(row, len(result.columns), len(paper))) for row in result.rows]
    notes = [METHOD.format(reference=reference_title)]
    notes += [f"{row.title}: {row.missing}" for row in result.rows if row.missing]
    notes += [result.note] if result.note else []
    return TextTable(f"{result.name}: {result.title}", "arm", (*result.columns, *paper), tuple(groups), tuple(notes))


def _rows(row: RowResult, columns: int, paper: int) -> list[Row]:
    published = [*(_one_decimal(number) for number in row.paper), *[""] * (paper - len(row.paper))]
    cells = [percent(cell.share) if cell else "–" for cell in row.cells] or ["–"] * columns
    found = [Row(row.title, (*cells, *published), "strong")]
    blank = [""] * paper
    found.append(Row("95 %", (*(interval(cell.interval) if cell else "" for cell in row.cells), *blank), "minor"))
    if any(cell and len(cell.by_seed) > 1 for cell in row.cells):
        found.append(Row("seeds", (*(_seeds(cell) for cell in row.cells), *blank), "minor"))
    if any(cell and cell.difference for cell in row.cells):
        found.append(Row("difference", (*(_difference(cell) for cell in row.cells), *blank), "minor"))
    return found


def _one_decimal(number: float | None) -> str:
    return "" if number is None else f"{number:.1f}"


def _seeds(cell: Cell | None) -> str:
    return " ".join(percent(share) for share in cell.by_seed) if cell else ""


def _difference(cell: Cell | None) -> str:
    if cell is None or cell.difference is None:
        return ""
    p = p_value(cell.difference.p_holm)
    return f"{signed(cell.difference.value)} (p {p if p.startswith('<') else f'= {p}'})"


def as_csv(results: Sequence[TableResult]) -> str:
    """All cells, one a line, unrounded."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    heads = (
        "table",
        "arm",
        "column",
        "share",
        "low",
        "high",
        "items",
        "seeds",
        "reference",
        "difference",
        "p",
        "p_holm",
    )
    writer.writerow(heads)
    for table in results:
        for row in table.rows:
            for column, cell in zip(table.columns, row.cells, strict=True):
                if cell is None:
                    continue
                change = cell.difference
                compared = (table.reference, change.value, change.p_value, change.p_holm) if change else ("",) * 4
                seeds = " ".join(map(str, cell.by_seed))
                writer.writerow((table.name, row.arm, column, cell.share, *cell.interval, cell.items, seeds, *compared))
    return out.getvalue()
