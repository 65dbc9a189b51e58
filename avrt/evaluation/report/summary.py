"""The report's first part: tables of every number, as HTML text.

All numbers come from `avrt.evaluation.scoring` and `avrt.evaluation.comparison`; here they are only formatted. Texts
from data (names of models, benchmarks, categories) are escaped by `tables.escape`.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from avrt.evaluation.benchmarks import BENCHMARKS
from avrt.evaluation.comparison import masks_of
from avrt.evaluation.number_format import ABSENT, interval, p_value, percent, signed
from avrt.evaluation.published_results import AVERAGES, COLUMNS
from avrt.evaluation.records.record import Record
from avrt.evaluation.report.plots import Point, axis, difference_scale, interval_plot, stacked_bar
from avrt.evaluation.report.tables import (
    accuracy,
    badge,
    escape,
    number_cell,
    number_heads,
    plot_head,
    section,
    table,
    text_heads,
)
from avrt.evaluation.scoring import BenchmarkRun

ERROR_TITLES = {
    "none": "right",
    "logic": "logic error",
    "instruction_format": "format error",
    "no_reply": "no reply",
}
"""`Record.error_type` in words, in the order of the tables."""

REASONS = {
    "ok": "right format, one option",
    "empty_think": "no reasoning, or a blank one",
    "no_answer_tag": "no complete pair of answer tags",
    "orphan_close": "a closing tag without its opening tag",
    "unclosed_think": "the reasoning has no closing tag",
    "duplicate_tag": "a tag more than once",
    "trailing_text": "text outside the tags",
    "empty_answer": "a blank answer",
    "multi_letter": "several letters",
    "not_an_option": "not an option's letter",
    "letter_text_conflict": "a letter with another option's text",
    "truncated": "cut by the token limit before the answer",
    "missing_media": "no call: the clip is missing",
    "unreadable_media": "no call: the clip cannot be read",
    "server_error": "no reply: the server failed",
    "server_refused": "no reply: the server refused the request",
    "reply_interrupted": "no reply: the server interrupted it",
    "no_input": "no call: the item has no stream that the model accepts",
    "no_prediction": "not in the imported file",
}
"""Meaning of the reason codes of replies (`avrt.text.answers.parse`) and of missing replies (`Record.failure`)."""

Runs = Sequence[Mapping[str, BenchmarkRun]]
"""One or two runs, each by benchmark."""


def title_of(benchmark: str) -> str:
    """A benchmark's name for tables."""
    return BENCHMARKS[benchmark].title if benchmark in BENCHMARKS else benchmark


def summary_html(runs: Runs, comparison: Mapping[str, Any]) -> str:
    """All tables of one or two runs.

    Args:
        runs: scored benchmarks by name, in the order of the tables.
        comparison: result of `avrt.evaluation.comparison.compare` for the same runs.
    """
    benchmarks = list(dict.fromkeys(name for run in runs for name in run))
    parts = [_about(runs), _accuracies(runs, benchmarks)]
    if len(runs) == 2:
        parts.append(_differences(comparison))
    parts += [_outcomes(runs, benchmarks), _reasons(runs)]
    parts += [_categories(runs, name) for name in benchmarks]
    parts += [_replies(runs, benchmarks), _published(comparison)]
    return "\n".join(part for part in parts if part)


def chance_level(records: Sequence[Record]) -> float:
    """The expected accuracy of guessing: the mean of 1 / (number of options)."""
    return sum(1 / len(record.options) for record in records) / len(records) if records else 0.0


def items_link(text: object, **filters: str) -> str:
    """A link to the list of items with these filters set (names as in the page's script)."""
    chosen = urlencode(filters, errors="replace")
    return f'<a href="#items?{html.escape(chosen)}">{escape(str(text))}</a>'


def _about(runs: Runs) -> str:
    heads = text_heads("Run", "Model", "Modalities", "Answer format", "Parser profile", "Subset")
    heads += number_heads("Items") + text_heads("Settings", "AVRT version")
    rows = []
    for number, run in enumerate(runs):
        infos = [entry.info for entry in run.values()]
        done, planned = sum(len(entry.records) for entry in run.values()), sum(info.items for info in infos)
        rows.append(
            [
                f"<td>{badge(number) if len(runs) == 2 else ''} {escape(infos[0].run)}</td>",
                *(
                    f"<td>{escape(_all_of(getattr(info, field) for info in infos))}</td>"
                    for field in ("model", "modalities", "answer_format", "profile", "subset")
                ),
                number_cell(f"{done:,}" if done == planned else f"{done:,} of {planned:,} (unfinished)"),
                f"<td>{escape(_all_of(_settings(info.decoding) for info in infos))}</td>",
                f"<td>{escape(_all_of(info.avrt_version for info in infos))}</td>",
            ]
        )
    return section("about", "Runs", table(heads, rows))


def _accuracies(runs: Runs, benchmarks: Sequence[str]) -> str:
    two = len(runs) == 2
    heads = text_heads("Benchmark", *(["Run"] if two else []))
    heads += number_heads("Items", "Right", "Strict", "95 % interval") + plot_head(axis())
    heads += number_heads("Chance", "Official", "Counted", "of items") + text_heads("Official rule")
    groups = []
    for name in benchmarks:
        rows: list[list[str]] = []
        for number, run in enumerate(runs):
            if name not in run:
                continue
            strict, official = run[name].metrics["strict"], run[name].metrics["official"]
            chance = chance_level(run[name].records)
            first = f"<td>{items_link(title_of(name), benchmark=name)}</td>" if not rows else "<td></td>"
            plot = interval_plot(
                _points([(strict, "ab"[number])]), f"{title_of(name)}: {accuracy(strict)}", marks=[chance]
            )
            rows.append(
                [
                    first,
                    *([f"<td>{badge(number)}</td>"] if two else []),
                    number_cell(f"{strict['items']:,}"),
                    number_cell(f"{strict['correct']:,}"),
                    number_cell(f"<strong>{percent(strict['accuracy'])}</strong>"),
                    number_cell(interval(strict["interval"])),
                    f'<td class="plot">{plot}</td>',
                    number_cell(percent(chance)),
                    number_cell(percent(official["correct"] / strict["items"] if strict["items"] else None)),
                    number_cell(percent(official["accuracy"])),
                    number_cell(f"{official['items']:,}"),
                    f'<td class="quiet">{escape(official["rule"])}</td>',
                ]
            )
        groups.append(rows)
    note = (
        "Strict: an item is right if the reply clearly chooses the gold option. Official: by the benchmark's own rule. "
        "Both are over all items; an item that a rule leaves out (no answer found) is wrong. Counted: the official "
        "accuracy over the items that the rule counts, which differ between runs. Intervals: Wilson, 95 %. Dashed "
        "line: chance level."
    )
    return section("accuracy", "Accuracy (%)", table(heads, *groups), note)


def _differences(comparison: Mapping[str, Any]) -> str:
    differences = comparison["differences"]
    changes = {**differences, **comparison["averages"]}
    scale = difference_scale([limit for change in changes.values() for limit in change["interval"]])
    heads = text_heads("Benchmark") + number_heads("Items", "B − A", "95 % interval")
    heads += plot_head(axis(scale, "points")) + number_heads("Won by B", "Lost by B", "p", "p (Holm)")
    rows = []
    for name, change in changes.items():
        low, high = change["interval"]
        point = Point(change["difference"], low, high, "b")
        title = title_of(name) if name in differences else AVERAGES[name]
        plot = interval_plot([point], f"{title}: {signed(change['difference'])} points", scale=scale)
        row = [
            f"<td>{escape(title)}</td>",
            number_cell(f"{change['items']:,}" if name in differences else ""),
            number_cell(f"<strong>{signed(change['difference'])}</strong>"),
            number_cell(interval(change["interval"], signed)),
            f'<td class="plot">{plot}</td>',
        ]
        if name in differences:
            row += [
                number_cell(items_link(change["only_second"], benchmark=name, change="won")),
                number_cell(items_link(change["only_first"], benchmark=name, change="lost")),
                number_cell(escape(p_value(change["p_value"]))),
                number_cell(escape(p_value(change["p_holm"]))),
            ]
        else:
            row += [number_cell("")] * 4
        rows.append(row)
    note = (
        "In percentage points, by the strict score, over the items that both runs have (for unfinished runs fewer than "
        "in the table above). Interval: paired bootstrap, 95 %. p: exact McNemar test; Holm: corrected over the "
        "benchmarks of this table."
    )
    if comparison["only_in_one"]:
        note += f" Only in one run, not compared: {', '.join(map(title_of, comparison['only_in_one']))}."
    return section("difference", "Difference, B − A (points)", table(heads, rows), note)


def _outcomes(runs: Runs, benchmarks: Sequence[str]) -> str:
    two = len(runs) == 2
    heads = text_heads("Benchmark", *(["Run"] if two else []))
    heads += number_heads(*map(str.capitalize, ERROR_TITLES.values())) + plot_head()
    groups = []
    for name in benchmarks:
        rows: list[list[str]] = []
        for number, run in enumerate(runs):
            if name not in run:
                continue
            errors = run[name].metrics["errors"]
            result = f"result{'b' if number else ''}"
            label = ", ".join(f"{title} {errors[error]}" for error, title in ERROR_TITLES.items())
            bar = stacked_bar([(error, errors[error]) for error in ERROR_TITLES], f"{title_of(name)}: {label}")
            rows.append(
                [
                    f"<td>{escape(title_of(name))}</td>" if not rows else "<td></td>",
                    *([f"<td>{badge(number)}</td>"] if two else []),
                    *(
                        number_cell(items_link(f"{errors[error]:,}", benchmark=name, **{result: error}))
                        for error in ERROR_TITLES
                    ),
                    f'<td class="plot">{bar}</td>',
                ]
            )
        groups.append(rows)
    key = " ".join(
        f'<span class="key"><span class="swatch part-{error}"></span>{escape(title)}</span>'
        for error, title in ERROR_TITLES.items()
    )
    note = "Logic error: a clear but wrong answer. Format error (IFE): no clear answer."
    return section("outcomes", "Outcomes", f"<p>{key}</p>" + table(heads, *groups), note)


def _reasons(runs: Runs) -> str:
    counts = [_sum(entry.metrics["reasons"] for entry in run.values()) for run in runs]
    found = [*REASONS, *sorted({reason for count in counts for reason in count} - set(REASONS))]
    heads = text_heads("Reason", "Meaning")
    heads += number_heads(*(_name(runs, number) or "Items" for number in range(len(runs))))
    rows = [
        [
            f"<td><code>{escape(reason)}</code></td>",
            f"<td>{escape(REASONS.get(reason, ''))}</td>",
            *(
                number_cell(items_link(f"{count.get(reason, 0):,}", **{f"reason{'b' if number else ''}": reason}))
                for number, count in enumerate(counts)
            ),
        ]
        for reason in found
        if any(reason in count for count in counts)
    ]
    return section("reasons", "Answer parsing", table(heads, rows))


def _categories(runs: Runs, benchmark: str) -> str:
    entries = [run.get(benchmark) for run in runs]
    names = list(dict.fromkeys(name for entry in entries if entry for name in entry.metrics["categories"]))
    tables = []
    for name in names:
        values = [entry.metrics["categories"].get(name, {}) if entry else {} for entry in entries]
        heads = text_heads(name) + number_heads("Items") + plot_head(axis())
        heads += number_heads(*(f"{_name(runs, number)} % [95 %]".strip() for number in range(len(runs))))
        heads += number_heads("B − A") if len(runs) == 2 else []
        rows = []
        for value in sorted({value for run in values for value in run}):
            scores = [run[value]["strict"] if value in run else None for run in values]
            link = items_link(value, benchmark=benchmark, **{f"c.{name}": value})
            shown = [(score, "ab"[number]) for number, score in enumerate(scores) if score]
            label = f"{value}: " + "; ".join(accuracy(score) for score, _ in shown)
            rows.append(
                [
                    f"<td>{link}</td>",
                    number_cell(f"{shown[0][0]['items']:,}"),
                    f'<td class="plot">{interval_plot(_points(shown), label)}</td>',
                    *(
                        number_cell(
                            f"{percent(score['accuracy'])} <small>{interval(score['interval'])}</small>"
                            if score
                            else ABSENT
                        )
                        for score in scores
                    ),
                ]
                + ([number_cell(_gap(scores))] if len(runs) == 2 else [])
            )
        tables.append(table(heads, rows))
    if not tables:
        return ""
    title = f"{title_of(benchmark)} by category (strict, %)"
    return section(f"categories-{benchmark}", title, "\n".join(tables))


def _replies(runs: Runs, benchmarks: Sequence[str]) -> str:
    heads = text_heads("Benchmark", *(["Run"] if len(runs) == 2 else []))
    heads += number_heads("In format", "Mean tokens", "Longest", "Truncated")
    heads += text_heads("Answers by letter (gold in brackets)")
    groups = []
    for name in benchmarks:
        rows: list[list[str]] = []
        for number, run in enumerate(runs):
            if name not in run:
                continue
            metrics = run[name].metrics
            tokens, gold, answered = metrics["tokens"], metrics["gold"], metrics["answers"]
            letters = [letter for letter in sorted({*gold, *answered}) if letter != "none"]
            balance = [f"{letter} {answered.get(letter, 0):,} ({gold.get(letter, 0):,})" for letter in letters]
            balance += [f"none {answered['none']:,}"] if answered.get("none") else []
            rows.append(
                [
                    f"<td>{escape(title_of(name))}</td>" if not rows else "<td></td>",
                    *([f"<td>{badge(number)}</td>"] if len(runs) == 2 else []),
                    number_cell(ABSENT if metrics["formatted"] is None else f"{percent(metrics['formatted'])} %"),
                    number_cell(ABSENT if tokens["completion_mean"] is None else f"{tokens['completion_mean']:.0f}"),
                    number_cell(ABSENT if tokens["completion_max"] is None else f"{tokens['completion_max']:,}"),
                    number_cell(f"{tokens['truncated']:,}"),
                    f"<td>{escape(', '.join(balance))}</td>",
                ]
            )
        groups.append(rows)
    return section("replies", "Replies", table(heads, *groups))


def _published(comparison: Mapping[str, Any]) -> str:
    columns = {**COLUMNS, **AVERAGES}
    known = {name for row in comparison["runs"] for name in row["benchmarks"]}
    if not known & set(COLUMNS):
        return ""
    own = [
        [f"<td><strong>{escape(row['run'] + masks_of(row))}</strong></td>"]
        + [
            number_cell(f"<strong>{percent(value)}</strong>" if value is not None else "")
            for value in (
                row["benchmarks"].get(name, {}).get("accuracy") if name in COLUMNS else row[name] for name in columns
            )
        ]
        for row in comparison["runs"]
    ]
    groups: dict[str, list[list[str]]] = {}
    for row in comparison["published"]:
        title = f'<th scope="rowgroup" colspan="{1 + len(columns)}">{escape(row["group"])}</th>'
        groups.setdefault(row["group"], [[title]]).append(
            [f"<td>{escape(row['label'])}</td>"]
            + [
                number_cell("" if value is None else f"{value:.1f}")
                for value in (row["scores"].get(name) if name in COLUMNS else row[name] for name in columns)
            ]
        )
    heads = text_heads("Model") + number_heads(*columns.values())
    note = f"Published numbers as printed: {comparison['published_source']}. AV Avg. excludes AVQA."
    return section("published", "Published results (%)", table(heads, own, *groups.values()), note)


def _points(scores: Iterable[tuple[Mapping[str, Any], str]]) -> list[Point]:
    return [
        Point(score["accuracy"], score["interval"][0], score["interval"][1], series)
        for score, series in scores
        if score["items"]
    ]


def _name(runs: Runs, number: int) -> str:
    return "AB"[number] if len(runs) == 2 else ""


def _gap(scores: Sequence[Mapping[str, Any] | None]) -> str:
    shares = [score["accuracy"] for score in scores if score]
    return signed(shares[1] - shares[0]) if len(shares) == 2 else ABSENT


def _all_of(values: Iterable[object]) -> str:
    found = dict.fromkeys("" if value is None else str(value) for value in values)
    return "; ".join(value or ABSENT for value in found)


def _settings(decoding: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {json.dumps(value)}" for name, value in sorted(decoding.items()))


def _sum(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for count in counts:
        for name, number in count.items():
            total[name] = total.get(name, 0) + number
    return total
