"""The result of `avrt.evaluation.comparison.compare` as tables, in the form of the paper's Tables 3, 8 and 9."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from avrt.evaluation.number_format import ABSENT, interval, p_value, percent, signed
from avrt.evaluation.published_results import AVERAGES, averaged
from avrt.evaluation.text_tables import Row, TextTable

SCORE_TITLES = {
    "strict": "strict score",
    "official": "official rules, on the whole reply",
    "official_answer": "official rules, on the answer's text",
}


def comparison_tables(result: Mapping[str, Any]) -> list[TextTable]:
    """Accuracies with the published rows; then the kinds of errors."""
    return [_accuracies(result), _errors(result)]


def _accuracies(result: Mapping[str, Any]) -> TextTable:
    columns = _columns(result)
    titles = {name: column["title"] for name, column in result["columns"].items()} | AVERAGES
    groups = [_shared_rows(result, columns)]
    groups += [_run_rows(result, row, columns) for row in result["runs"]]
    groups += [_difference_rows(result, comparison, columns) for comparison in result["comparisons"]]
    groups += _published_rows(result, columns)
    return TextTable(
        f"Accuracy in percent ({SCORE_TITLES[result['score']]})",
        "model",
        tuple(titles[name] for name in columns),
        tuple(tuple(group) for group in groups),
        tuple(_notes(result)),
    )


def _columns(result: Mapping[str, Any]) -> list[str]:
    """The columns that were run, with those averages that a run has, each after its benchmarks."""
    audio = averaged("audio_average")
    listed = [name for name in result["columns"] if name not in audio]
    listed += ["av_average", *(name for name in audio if name in result["columns"]), "audio_average"]
    return [name for name in listed if name not in AVERAGES or any(row[name] is not None for row in result["runs"])]


def _row(label: str, values: Mapping[str, str], columns: Sequence[str], style: Any = "plain") -> Row:
    return Row(label, tuple(values.get(name, "") for name in columns), style)


def _shared_rows(result: Mapping[str, Any], columns: Sequence[str]) -> list[Row]:
    """The items of each column, which all runs share, and the settings that they share."""
    items = {name: _items(result, name) for name in result["columns"]}
    known = {name: column["published_items"] for name, column in result["columns"].items()}
    whole = {name: f"{count:,}" for name, count in known.items() if count and count > items[name]}
    rows = [
        _row("items", {name: f"{count:,}" for name, count in items.items()}, columns, "minor"),
        _row("of all", whole, columns, "minor"),
    ]
    for key, title in _settings(result, shared=True):
        rows.append(_row(title, _setting(result["runs"], key), columns, "minor"))
    return rows


def _items(result: Mapping[str, Any], column: str) -> int:
    """The number of items, which all runs share."""
    return next(row["benchmarks"][column]["items"] for row in result["runs"] if column in row["benchmarks"])


def _settings(result: Mapping[str, Any], *, shared: bool) -> list[tuple[str, str]]:
    """The media settings that all runs share, or those that they do not."""
    titles = (("frames", "frames"), ("audio", "audio (s)"))
    runs = [[row] for row in result["runs"]]
    return [
        (key, title)
        for key, title in titles
        if all(
            len({row["benchmarks"][name][key] for (row,) in runs if name in row["benchmarks"]}) == 1
            for name in result["columns"]
        )
        == shared
    ]


def _setting(rows: Sequence[Mapping[str, Any]], key: str) -> dict[str, str]:
    found = {name: score[key] for row in rows for name, score in row["benchmarks"].items()}
    return found if any(value != ABSENT for value in found.values()) else {}


def _run_rows(result: Mapping[str, Any], row: Mapping[str, Any], columns: Sequence[str]) -> list[Row]:
    scores = row["benchmarks"]
    accuracies = {name: score["accuracy"] for name, score in scores.items()} | {name: row[name] for name in AVERAGES}
    shown = {name: percent(accuracies[name]) if accuracies.get(name) is not None else ABSENT for name in columns}
    rows = [_row(row["label"], shown, columns, "strong")]
    intervals = {name: interval(score["interval"]) for name, score in scores.items() if score["items"]}
    rows.append(_row("95 % interval", intervals, columns, "minor"))
    rows += [_row(title, _setting([row], key), columns, "minor") for key, title in _settings(result, shared=False)]
    counted = {
        name: f"{percent(score['counted']['accuracy'])} of {score['counted']['items']:,}"
        for name, score in scores.items()
        if "counted" in score and score["counted"]["items"] < score["items"]
    }
    rows.append(_row("counted by the rule", counted, columns, "minor"))
    return rows


def _difference_rows(result: Mapping[str, Any], comparison: Mapping[str, Any], columns: Sequence[str]) -> list[Row]:
    changes: dict[str, Any] = comparison["differences"] | comparison["averages"]
    label = "difference"
    if len(result["runs"]) > 2:
        label = " − ".join(result["runs"][comparison[key]]["label"] for key in ("run", "reference"))
    differences = {name: signed(change["difference"]) for name, change in changes.items()}
    intervals = {name: interval(change["interval"], signed) for name, change in changes.items()}
    p_values = {name: starred(change["p_holm"]) for name, change in changes.items() if "p_holm" in change}
    return [
        _row(label, differences, columns, "strong"),
        _row("95 % interval", intervals, columns, "minor"),
        _row("p (Holm)", p_values, columns, "minor"),
    ]


def _published_rows(result: Mapping[str, Any], columns: Sequence[str]) -> list[list[Row]]:
    """The paper's rows below their headings, and above them the numbers of items that the authors state."""
    known = {name: column["published_items"] for name, column in result["columns"].items()}
    groups: dict[str, list[Row]] = {}
    for row in result["published"]:
        values = row["scores"] | {name: row[name] for name in AVERAGES}
        cells = {name: f"{values[name]:.1f}" for name in columns if values.get(name) is not None}
        heading = [Row(row["group"], ("",) * len(columns), "heading")]
        groups.setdefault(row["group"], heading).append(_row(row["label"], cells, columns))
    items = [_row("published: items", {name: f"{count:,}" for name, count in known.items() if count}, columns, "minor")]
    found = any(cell for rows in groups.values() for row in rows for cell in row.cells)
    return [items, *groups.values()] if found else []


def _errors(result: Mapping[str, Any]) -> TextTable:
    """The paper's Table 9 for every column: format errors (IFE), logic errors and missing replies."""
    columns = list(result["columns"])
    kinds = {"instruction_format": "format errors (IFE)", "logic": "logic errors", "no_reply": "no reply"}
    groups = []
    for row in result["runs"]:
        rows = [Row(row["label"], ("",) * len(columns), "heading")]
        for kind, title in kinds.items():
            shares = {name: score["errors"][kind] for name, score in row["benchmarks"].items()}
            if kind != "no_reply" or any(shares.values()):
                rows.append(_row(title, {name: percent(share) for name, share in shares.items()}, columns, "minor"))
        groups.append(rows)
    for label, errors in result["published_errors"].items():
        rows = [Row(f"{label} (published)", ("",) * len(columns), "heading")]
        rows += [_row(kinds[kind], {"omnibench": f"{value:.1f}"}, columns, "minor") for kind, value in errors.items()]
        groups.append(rows)
    heads = tuple(result["columns"][name]["title"] for name in columns)
    return TextTable("Errors in percent of all items (strict score)", "model", heads, tuple(map(tuple, groups)))


def _notes(result: Mapping[str, Any]) -> list[str]:
    notes = []
    if result["comparisons"]:
        notes.append("* p < 0.05   ** p < 0.01   *** p < 0.001, corrected over all comparisons of the table")
    shown = {*result["columns"], *AVERAGES}
    if any(shown & row["scores"].keys() for row in result["published"]):
        notes.append(f"Published: {result['published_source']}.")
    if any(row["av_average"] is not None for row in result["runs"]):
        notes.append("AV Avg. excludes AVQA.")
    if result["score"] != "strict":
        notes.append(
            "Accuracies and differences are over all items; an item that a benchmark's rule leaves out (no answer "
            "found) counts as wrong. Counted by the rule: the accuracy over the items that it counts, and their number."
        )
    for name, column in result["columns"].items():
        rows = [row for row in result["runs"] if name in row["benchmarks"]]
        recorded = [row["benchmarks"][name]["recorded"] for row in rows]
        items = rows[0]["benchmarks"][name]["items"]
        if len(rows) > 1 and recorded != [items] * len(rows):
            counts = ", ".join(f"{row['label']} {count:,}" for row, count in zip(rows, recorded, strict=True))
            notes.append(f"{column['title']}: over the {items:,} items that all of its runs have ({counts}).")
    for comparison in result["comparisons"]:
        if comparison["only_in_one"]:
            titles = ", ".join(result["columns"][name]["title"] for name in comparison["only_in_one"])
            one, two = (result["runs"][comparison[key]]["label"] for key in ("run", "reference"))
            notes.append(f"Only in one of {one} and {two}, not compared: {titles}.")
    return notes


def starred(p: float) -> str:
    """A p-value with stars for significance."""
    return p_value(p) + ("***" if p < 0.001 else "**" if p < 0.01 else "*" if p < 0.05 else "")


CSV_FIELDS = (
    *("kind", "label", "model", "benchmark", "subset", "items", "percent", "low", "high", "p_value", "p_holm"),
    *("format_errors", "logic_errors", "no_reply", "frames", "audio_seconds"),
)


def as_csv(result: Mapping[str, Any]) -> str:
    """One line per number: kind ``run``, ``difference`` (in points) or ``published``; all numbers in percent."""
    out, columns = io.StringIO(), _columns(result)
    writer = csv.DictWriter(out, CSV_FIELDS, restval="", lineterminator="\n")
    writer.writeheader()

    def place(column: str) -> dict[str, Any]:
        known = result["columns"].get(column, {"benchmark": column, "subset": None})
        return {"benchmark": known["benchmark"], "subset": known["subset"] or ""}

    for row in result["runs"]:
        about = {"kind": "run", "label": row["label"], "model": row["model"]}
        for column, score in row["benchmarks"].items():
            errors = {f"{name}_errors": score["errors"][kind] for name, kind in _ERROR_FIELDS}
            writer.writerow(
                about
                | place(column)
                | {"items": score["items"], "percent": _hundred(score["accuracy"])}
                | dict(zip(("low", "high"), map(_hundred, score["interval"]), strict=True))
                | {name: _hundred(value) for name, value in errors.items()}
                | {"no_reply": _hundred(score["errors"]["no_reply"])}
                | {"frames": _known(score["frames"]), "audio_seconds": _known(score["audio"])}
            )
        for name in AVERAGES:
            if row[name] is not None:
                writer.writerow(about | {"benchmark": name, "percent": _hundred(row[name])})
    for comparison in result["comparisons"]:
        one, two = (result["runs"][comparison[key]]["label"] for key in ("run", "reference"))
        for column, change in (comparison["differences"] | comparison["averages"]).items():
            writer.writerow(
                {"kind": "difference", "label": f"{one} - {two}"}
                | place(column)
                | {"items": change.get("items", ""), "percent": _hundred(change["difference"])}
                | dict(zip(("low", "high"), map(_hundred, change["interval"]), strict=True))
                | {name: change[name] for name in ("p_value", "p_holm") if name in change}
            )
    for row in result["published"]:
        values = row["scores"] | {name: row[name] for name in AVERAGES}
        for column, value in values.items():
            if value is not None and column in columns:
                items = result["columns"].get(column, {}).get("published_items")
                known = {"kind": "published", "label": row["label"], "items": items or "", "percent": value}
                writer.writerow(known | place(column))
    return out.getvalue()


_ERROR_FIELDS = (("format", "instruction_format"), ("logic", "logic"))


def _hundred(share: float | None) -> float | str:
    return "" if share is None else round(100 * share, 6)


def _known(text: str) -> str:
    return "" if text == ABSENT else text
