"""A judge's scores on the terminal, beside the paper's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from rich.console import Console

from avrt.evaluation.number_format import interval, p_value, percent
from avrt.evaluation.text_tables import Row, TextTable, print_table
from avrt.judging.scores import GROUNDED, NOT_ATTRIBUTED, ROWS, TIE

LABELS = {
    "accurate": "Accurate",
    "hallucinating": "Hallucinating",
    "missing_info": "Missing info",
    "audio_grounded": "Audio grounded",
    "visual_grounded": "Visual grounded",
    "BOTH_TEACHERS": "Both teachers",
    "SEVERAL_TEACHERS": "Several teachers",
    "MERGER": "Merger introduced",
    "NONE": "Not confirmed",
    NOT_ATTRIBUTED: "Not attributed",
}


def published_quality() -> dict[str, Any]:
    """The paper's Table 0.A.1 and Figure 0.A.1, percentages as printed, with their source."""
    text = (files("avrt.judging") / "data" / "paper_table_a1.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def print_judgments(scores: Mapping[str, Any], console: Console) -> None:
    """Print the tables of a run's scores."""
    if scores["individual"]:
        print_table(_quality_table(scores), console)
    if scores["head_to_head"]:
        print_table(_comparison_table(scores), console)


def _quality_table(scores: Mapping[str, Any]) -> TextTable:
    """Table 0.A.1: a column with its interval per set, then the paper's two."""
    paper = published_quality()
    names = list(scores["individual"])
    heads = [head for name in names for head in (name, "95 % interval")]
    heads += [f"paper: {row['model']}" for row in paper["individual"]]

    def row(label: str, key: str, shares: list[Any], style: Any = "plain", group: str = "shares") -> Row:
        cells = [cell for share in shares for cell in _with_interval(share)]
        cells += [_printed(published[group].get(key)) for published in paper["individual"]]
        return Row(label, tuple(cells), style)

    rows = []
    for key in ROWS:
        rows.append(row(LABELS[key], key, [scores["individual"][name]["rows"][key] for name in names]))
        if key == "hallucinating":
            found = {name: scores["source"].get(name, {}).get("rows", {}) for name in names}
            printed = paper["individual"][0]["sources"] if any(found.values()) else {}
            rows += [
                row(_source_label(source), source, [found[name].get(source) for name in names], "minor", "sources")
                for source in dict.fromkeys([*printed, *(source for rows in found.values() for source in rows)])
            ]
    grounded = [row(LABELS[k], k, [scores["individual"][name]["rows"][k] for name in names]) for k in GROUNDED]
    notes = [f"paper: {paper['source']}. {paper['note']}"]
    notes += [f"{name}: {_counted(scores['individual'][name])}" for name in names]
    notes += [f"{name}, sources: {_counted(found)}" for name, found in scores["source"].items()]
    return TextTable("Quality of traces, percent", "", tuple(heads), (tuple(rows), tuple(grounded)), tuple(notes))


def _comparison_table(scores: Mapping[str, Any]) -> TextTable:
    """Figure 0.A.1: wins and ties, by order, and where both orders agree."""
    found, (first, second) = scores["head_to_head"], scores["sets"]
    paper = published_quality()["head_to_head"]
    names = (first, second, TIE)
    heads = [head for name in (first, second, "tie") for head in (name, "95 % interval")]

    def row(label: str, shares: Mapping[str, Any], style: Any = "plain") -> Row:
        return Row(label, tuple(cell for name in names for cell in _with_interval(shares[name])), style)

    rows = (
        row("Preferred", found["wins"], "strong"),
        *(row(f"{shown} shown first", found["by_order"][f"{shown}_first"], "minor") for shown in (first, second)),
        row("Same in both orders", found["both_orders"]),
    )
    ours, theirs = list(paper)[:2]
    published = Row(f"paper: {ours} against {theirs}", tuple(t for name in paper for t in (_printed(paper[name]), "")))
    bias = found["position_bias"]
    wins, depends = bias["first_wins"], found["both_orders"]["depends_on_order"]
    notes = (
        f"{found['samples']} samples in both orders; {_counted(found)}",
        f"position: the trace shown first wins {percent(wins['share'])} % {interval(wins['interval'])} of judgments "
        f"without a tie; it wins in both orders for {bias['first_in_both']} samples, the second one for "
        f"{bias['second_in_both']} (p {p_value(bias['p_value'])})",
        f"the order changes the result for {percent(depends['share'])} % {interval(depends['interval'])} of samples",
    )
    return TextTable("Head to head, percent", "", tuple(heads), (rows, (published,)), notes)


def _source_label(source: str) -> str:
    if source in LABELS:
        return LABELS[source]
    return f"{source.removesuffix('_TEACHER').replace('_', ' ').capitalize()} teacher only"


def _with_interval(share: Mapping[str, Any] | None) -> tuple[str, str]:
    if share is None:
        return "", ""
    return percent(share["share"]), interval(share["interval"]) if share["total"] else ""


def _printed(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _counted(scores: Mapping[str, Any]) -> str:
    """How many judgments there are, and why others are missing."""
    rest = [f"{count} {status}" for status, count in scores["outcomes"].items() if status != "ok"]
    text = f"{scores['judged']} of {scores['asked']} judged"
    text += f" ({', '.join(rest)})" if rest else ""
    return text + (f"; {scores['bad_replies']} replies were not valid verdicts" if scores["bad_replies"] else "")
