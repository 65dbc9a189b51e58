"""The report's first part: tables of every number, as HTML text.

All numbers come from `avrt.evaluation.scoring` and `avrt.evaluation.comparison`; here they are only formatted. Texts
from data (names of models, benchmarks, categories) are escaped by `tables.escape`.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from avrt.evaluation.benchmarks import BENCHMARKS
from avrt.evaluation.category_names import category_name
from avrt.evaluation.number_format import ABSENT, interval, p_value, percent, signed
from avrt.evaluation.published_results import AVERAGES
from avrt.evaluation.records.record import Record
from avrt.evaluation.report.about_runs import about_runs
from avrt.evaluation.report.further import further_numbers
from avrt.evaluation.report.published import published_errors, published_results
from avrt.evaluation.report.run_labels import accuracy, badge, run_letter, series_of, title_of
from avrt.evaluation.run_media import audio_of, frames_of
from avrt.evaluation.scoring import BenchmarkRun
from avrt.pages.plots import Point, axis, difference_scale, interval_plot, stacked_bar
from avrt.pages.tables import escape, number_cell, number_heads, plot_head, section, table, text_heads
from avrt.text.options import REASON_MEANINGS

ERROR_TITLES = {
    "none": "right",
    "logic": "logic error",
    "instruction_format": "format error",
    "no_reply": "no reply",
}
"""`Record.error_type` in words, in the order of the tables."""

REASONS = {
    **REASON_MEANINGS,
    "missing_media": "no call: the clip is missing",
    "unreadable_media": "no call: the clip cannot be read",
    "server_error": "no reply: the server failed",
    "server_refused": "no reply: the server refused the request",
    "reply_interrupted": "no reply: the model ended it without an answer",
    "no_input": "no call: the item has no stream that the model accepts",
    "no_prediction": "not in the imported file",
}
"""Meaning of the reason codes of replies (`avrt.text.answers.parse`) and of missing replies (`Record.failure`)."""

LARGE = 100
"""Items from which a benchmark's interval sets the scale of the differences."""

Runs = Sequence[Mapping[str, BenchmarkRun]]
"""Runs, each by benchmark."""


def summary_html(runs: Runs, comparison: Mapping[str, Any]) -> str:
    """All tables of some runs.

    Args:
        runs: scored benchmarks by name, in the order of the tables.
        comparison: result of `avrt.evaluation.comparison.compare_scored` for the same runs.
    """
    benchmarks = list(dict.fromkeys(name for run in runs for name in run))
    parts = [about_runs(runs), _accuracies(runs, benchmarks)]
    parts += [_differences(comparison, change) for change in comparison["comparisons"]]
    parts += [_outcomes(runs, benchmarks), _reasons(runs)]
    parts += [_categories(runs, name) for name in benchmarks]
    parts += [_replies(runs, benchmarks), further_numbers(runs), published_results(comparison)]
    return "\n".join(part for part in parts if part)


def chance_level(records: Sequence[Record]) -> float:
    """The expected accuracy of guessing: the mean of 1 / (number of options)."""
    return sum(1 / len(record.options) for record in records) / len(records) if records else 0.0


def items_link(text: object, **filters: str) -> str:
    """A link to the list of items with these filters set (names as in the page's script)."""
    chosen = urlencode(filters, errors="replace")
    return f'<a href="#items?{html.escape(chosen)}">{escape(str(text))}</a>'


def _accuracies(runs: Runs, benchmarks: Sequence[str]) -> str:
    several = len(runs) > 1
    heads = text_heads("Benchmark", *(["Run"] if several else []))
    heads += number_heads("Items", "Right", "Strict", "95 % interval") + plot_head(axis())
    heads += number_heads("Chance", "Official", "On answer", "Counted", "of items", "Frames", "Audio (s)")
    groups, rules = [], {}
    for name in benchmarks:
        rows: list[list[str]] = []
        for number, run in enumerate(runs):
            if name not in run:
                continue
            strict, official = run[name].metrics["strict"], run[name].metrics["official"]
            rules[title_of(name)] = official["rule"]
            scores = [official["correct"], run[name].metrics["official_answer"]["correct"]]
            chance = chance_level(run[name].records)
            first = f"<td>{items_link(title_of(name), benchmark=name)}</td>" if not rows else "<td></td>"
            plot = interval_plot(
                _points([(strict, series_of(number))]), f"{title_of(name)}: {accuracy(strict)}", marks=[chance]
            )
            rows.append(
                [
                    first,
                    *([f"<td>{badge(number)}</td>"] if several else []),
                    number_cell(_of_all(strict["items"], name)),
                    number_cell(f"{strict['correct']:,}"),
                    number_cell(f"<strong>{percent(strict['accuracy'])}</strong>"),
                    number_cell(interval(strict["interval"])),
                    f'<td class="plot">{plot}</td>',
                    number_cell(percent(chance)),
                    *(number_cell(percent(right / strict["items"] if strict["items"] else None)) for right in scores),
                    number_cell(percent(official["accuracy"])),
                    number_cell(f"{official['items']:,}"),
                    number_cell(escape(frames_of(run[name]))),
                    number_cell(escape(audio_of(run[name]))),
                ]
            )
        groups.append(rows)
    note = (
        "Strict: an item is right if the reply clearly chooses the gold option. Official: by the benchmark's own rule, "
        "on the whole reply as the model wrote it; tags and reasoning around the answer change what it reads. On "
        "answer: by that rule on the answer's text alone, as papers report it. All are over all items; an item that a "
        "rule leaves out (no answer found) is wrong. Counted: the official accuracy over the items that the rule "
        "counts, which differ between runs. Intervals: Wilson, 95 %. Dashed line: chance level. Official rules: "
        + "; ".join(f"{title}: {rule}" for title, rule in rules.items())
        + "."
    )
    return section("accuracy", "Accuracy (%)", table(heads, *groups), note)


def _differences(result: Mapping[str, Any], comparison: Mapping[str, Any]) -> str:
    number, letter = comparison["run"], run_letter(comparison["run"])
    differences = comparison["differences"]
    changes = {**differences, **comparison["averages"]}
    if not changes:
        return ""
    # A benchmark of a few items would make dots of all others: its interval may leave the plot.
    large = [change for change in changes.values() if change.get("items", LARGE) >= LARGE] or list(changes.values())
    scale = difference_scale([limit for change in large for limit in change["interval"]])
    heads = text_heads("Benchmark") + number_heads("Items", f"{letter} − A", "95 % interval")
    heads += plot_head(axis(scale, "points"))
    heads += number_heads(f"Won by {letter}", f"Lost by {letter}", "p", "p (Holm)")
    filter_name = "change" if number == 1 else f"change{letter.lower()}"
    rows = []
    for name, change in changes.items():
        low, high = change["interval"]
        point = Point(change["difference"], low, high, series_of(number))
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
                number_cell(items_link(change["only_second"], benchmark=name, **{filter_name: "won"})),
                number_cell(items_link(change["only_first"], benchmark=name, **{filter_name: "lost"})),
                number_cell(escape(p_value(change["p_value"]))),
                number_cell(escape(p_value(change["p_holm"]))),
            ]
        else:
            row += [number_cell("")] * 4
        rows.append(row)
    note = (
        "In percentage points, by the strict score, over the items that all runs have (for unfinished runs fewer than "
        "in the table above). Interval: paired bootstrap over clips, 95 %. p: exact test by clip (McNemar, where each "
        "has one question); Holm: corrected over all comparisons on this page."
    )
    if comparison["only_in_one"]:
        note += f" Only in one of the two runs, not compared: {', '.join(map(title_of, comparison['only_in_one']))}."
    names = [result["runs"][comparison[key]]["label"] for key in ("run", "reference")]
    title = f"Difference, {letter} − A (points)" + (f": {' − '.join(names)}" if len(result["runs"]) > 2 else "")
    return section("difference" if number == 1 else f"difference-{number}", title, table(heads, rows), note)


def _outcomes(runs: Runs, benchmarks: Sequence[str]) -> str:
    several = len(runs) > 1
    heads = text_heads("Benchmark", *(["Run"] if several else []))
    heads += number_heads(*(part for title in ERROR_TITLES.values() for part in (title.capitalize(), "%")))
    heads += plot_head()
    groups = []
    for name in benchmarks:
        rows: list[list[str]] = []
        for number, run in enumerate(runs):
            if name not in run:
                continue
            errors, items = run[name].metrics["errors"], len(run[name].records)
            label = ", ".join(f"{title} {errors[error]}" for error, title in ERROR_TITLES.items())
            bar = stacked_bar([(error, errors[error]) for error in ERROR_TITLES], f"{title_of(name)}: {label}")
            cells = [f"<td>{escape(title_of(name))}</td>" if not rows else "<td></td>"]
            cells += [f"<td>{badge(number)}</td>"] if several else []
            for error in ERROR_TITLES:
                link = items_link(f"{errors[error]:,}", benchmark=name, **{run_filter("result", number): error})
                cells += [number_cell(link), number_cell(percent(errors[error] / items if items else None))]
            rows.append([*cells, f'<td class="plot">{bar}</td>'])
        groups.append(rows + published_errors(name, several))
    key = " ".join(
        f'<span class="key"><span class="swatch part-{error}"></span>{escape(title)}</span>'
        for error, title in ERROR_TITLES.items()
    )
    note = "Logic error: a clear but wrong answer. Format error (IFE): no clear answer. In percent of all items."
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
                number_cell(items_link(f"{count.get(reason, 0):,}", **{run_filter("reason", number): reason}))
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
        heads = text_heads(category_name(name)) + number_heads("Items") + plot_head(axis())
        heads += number_heads(*(f"{_name(runs, number)} % [95 %]".strip() for number in range(len(runs))))
        heads += number_heads(*(f"{run_letter(number)} − A" for number in range(1, len(runs))))
        rows = []
        for value in sorted({value for run in values for value in run}):
            scores = [run[value]["strict"] if value in run else None for run in values]
            link = items_link(value, benchmark=benchmark, **{f"c.{name}": value})
            shown = [(score, series_of(number)) for number, score in enumerate(scores) if score]
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
                + [number_cell(_gap(scores[0], score)) for score in scores[1:]]
            )
        tables.append(table(heads, rows))
    if not tables:
        return ""
    title = f"{title_of(benchmark)} by category (strict, %)"
    return section(f"categories-{benchmark}", title, "\n".join(tables))


def _replies(runs: Runs, benchmarks: Sequence[str]) -> str:
    heads = text_heads("Benchmark", *(["Run"] if len(runs) > 1 else []))
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
                    *([f"<td>{badge(number)}</td>"] if len(runs) > 1 else []),
                    number_cell(ABSENT if metrics["formatted"] is None else f"{percent(metrics['formatted'])} %"),
                    number_cell(ABSENT if tokens["completion_mean"] is None else f"{tokens['completion_mean']:.0f}"),
                    number_cell(ABSENT if tokens["completion_max"] is None else f"{tokens['completion_max']:,}"),
                    number_cell(f"{tokens['truncated']:,}"),
                    f"<td>{escape(', '.join(balance))}</td>",
                ]
            )
        groups.append(rows)
    return section("replies", "Replies", table(heads, *groups))


def _points(scores: Iterable[tuple[Mapping[str, Any], str]]) -> list[Point]:
    return [
        Point(score["accuracy"], score["interval"][0], score["interval"][1], series)
        for score, series in scores
        if score["items"]
    ]


def _name(runs: Runs, number: int) -> str:
    return run_letter(number) if len(runs) > 1 else ""


def run_filter(name: str, number: int) -> str:
    """The name of a run's filter, as in the page's script: that of run A has no letter."""
    return f"{name}{run_letter(number).lower()}" if number else name


def _of_all(items: int, benchmark: str) -> str:
    known = BENCHMARKS[benchmark].items if benchmark in BENCHMARKS else 0
    return f"{items:,} of {known:,}" if known > items else f"{items:,}"


def _gap(first: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> str:
    return signed(other["accuracy"] - first["accuracy"]) if first and other else ABSENT


def _sum(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for count in counts:
        for name, number in count.items():
            total[name] = total.get(name, 0) + number
    return total
