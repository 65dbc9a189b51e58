"""The report's table of published results: the paper's rows for the benchmarks that were run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from avrt.evaluation.number_format import percent
from avrt.evaluation.published_results import ANALYZED, AVERAGES, published_analysis
from avrt.pages.tables import escape, number_cell, number_heads, section, table, text_heads


def published_results(comparison: Mapping[str, Any]) -> str:
    """The runs above the paper's Table 3, with the number of items of both; only benchmarks that were run."""
    rows = comparison["published"]
    columns = [name for name in comparison["columns"] if any(name in row["scores"] for row in rows)]
    columns += [name for name in AVERAGES if any(row[name] is not None for row in comparison["runs"])]
    if not columns:
        return ""
    known = {name: comparison["columns"][name]["published_items"] for name in columns if name not in AVERAGES}
    own = []
    for row in comparison["runs"]:
        scores = row["benchmarks"]
        values = [scores.get(name, {}).get("accuracy") if name not in AVERAGES else row[name] for name in columns]
        counts = [f"{scores[name]['items']:,}" if name in scores else "" for name in columns]
        own.append([f"<td><strong>{escape(row['label'])}</strong></td>", *(_bold(value) for value in values)])
        own.append(['<td class="quiet">items</td>', *(number_cell(f"<small>{count}</small>") for count in counts)])
    whole = [f"{known[name]:,}" if known.get(name) else "" for name in columns]
    items = [['<td class="quiet">published: items</td>', *(number_cell(f"<small>{n}</small>") for n in whole)]]
    groups: dict[str, list[list[str]]] = {}
    for row in rows:
        values = [row["scores"].get(name) if name not in AVERAGES else row[name] for name in columns]
        if any(value is not None for value in values):
            title = f'<th scope="rowgroup" colspan="{1 + len(columns)}">{escape(row["group"])}</th>'
            cells = [number_cell("" if value is None else f"{value:.1f}") for value in values]
            groups.setdefault(row["group"], [[title]]).append([f"<td>{escape(row['label'])}</td>", *cells])
    titles = [AVERAGES.get(name) or comparison["columns"][name]["title"] for name in columns]
    heads = text_heads("Model") + number_heads(*titles)
    note = f"Published numbers as printed: {comparison['published_source']}. AV Avg. excludes AVQA."
    return section("published", "Published results (%)", table(heads, own, items, *groups.values()), note)


def published_errors(benchmark: str, several: bool) -> list[list[str]]:
    """The paper's rows of Table 9 for the table of outcomes; none but for OmniBench."""
    if benchmark != ANALYZED:
        return []
    rows = []
    for label, errors in published_analysis().errors.items():
        blank = number_cell("")
        shares = [number_cell(f"{errors[kind]:.1f}") for kind in ("logic", "instruction_format")]
        cells = [f'<td class="quiet">{escape(label)} (paper)</td>', *(["<td></td>"] if several else [])]
        rows.append([*cells, blank, blank, blank, shares[0], blank, shares[1], blank, blank, '<td class="plot"></td>'])
    return rows


def _bold(share: float | None) -> str:
    return number_cell("" if share is None else f"<strong>{percent(share)}</strong>")
