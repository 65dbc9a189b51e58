"""The page's first part: settings, yield, Table 2 and Figure 0.B.4 of the paper beside this run, verdicts."""

from __future__ import annotations

import html
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from avrt.pages.plots import SERIES, axis, bars
from avrt.pages.tables import escape, number_cell, number_heads, plot_head, section, table, text_heads
from avrt.traces.config import MERGE, TracesConfig
from avrt.traces.report.items import OUTCOME_MEANINGS, meaning_of
from avrt.traces.report.survey import Distribution, Survey, TraceRun
from avrt.traces.report.verdicts import Verdicts
from avrt.traces.statistics import OTHERS, PAPER, largest, plus_minus

FIGURE = {"question_types": "Question type", "answer_letters": "Answer", "modalities": "Modality requirement"}
"""The parts of Figure 0.B.4."""

_Column = tuple[str, Mapping[str, float]]


def summary_html(run: TraceRun, survey: Survey, annotations: Distribution | None, verdicts: Verdicts | None) -> str:
    """All tables of a trace run."""
    parts = [_about(run, survey), _yield(run, survey), _outcomes(survey)]
    parts += [_table_2(survey), *(_distribution(name, survey, annotations) for name in FIGURE)]
    parts += [_certainty(survey.certainty)] if survey.certainty else []
    parts += [_judged(verdicts.counts(survey.traces), len(survey.traces))] if verdicts else []
    return "\n".join(parts)


def items_link(text: object, **filters: str) -> str:
    """A link to the list of samples with these filters set (names as in the page's script)."""
    return f'<a href="#items?{html.escape(urlencode(filters, errors="replace"))}">{escape(str(text))}</a>'


def _about(run: TraceRun, survey: Survey) -> str:
    rows = [
        [
            f'<th scope="row">{escape(stage)}</th>',
            f"<td>{escape(model.name)}</td>",
            f"<td>{escape(_sent(run.config, stage))}</td>",
            f"<td><code>{escape(model.revision[:12])}</code></td>",
            f'<td class="settings">{escape(_settings(model.sampling))}</td>',
            f"<td>{_folded(run.prompts[stage])}</td>",
        ]
        for stage, model in run.models.items()
    ]
    heads = text_heads("Stage", "Model", "Gets", "Revision", "Sampling", "Prompt")
    note = f"Variant: {run.config.variant}. Filter: {run.config.rule}. {survey.considered:,} samples."
    if survey.missing:
        note += f" The run is not finished: {survey.missing:,} calls are missing, so all numbers are preliminary."
    return section("about", "Run", table(heads, rows), note)


def _sent(config: TracesConfig, stage: str) -> str:
    """What a stage is sent, and how often."""
    if stage == MERGE:
        return "all replies"
    teacher = config.teachers[stage]
    return teacher.inputs if teacher.samples == 1 else f"{teacher.inputs}, {teacher.samples} times"


def _settings(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {json.dumps(value)}" for name, value in sorted(values.items()))


def _folded(prompt: str) -> str:
    return f'<details class="prompt"><summary>show</summary><pre class="trace">{html.escape(prompt)}</pre></details>'


def _yield(run: TraceRun, survey: Survey) -> str:
    rows = []
    for reason, count in survey.reasons.items():
        share = count / survey.considered
        label = f"{reason}: {100 * share:.1f} percent"
        rows.append(
            [
                f"<td><code>{escape(reason)}</code></td>",
                f"<td>{escape(meaning_of(reason, run.stages))}</td>",
                number_cell(f"{count:,}"),
                number_cell(f"{100 * share:.1f}"),
                f'<td class="plot">{bars([("a", share)], label)}</td>',
                number_cell(items_link(f"{len(survey.chosen[reason]):,}", reason=reason)),
            ]
        )
    heads = text_heads("Reason", "Meaning") + number_heads("Samples", "%") + plot_head(axis()) + number_heads("Shown")
    note = "Shown: samples on this page, chosen at random from each reason."
    return section("yield", "Kept and rejected samples", table(heads, rows), note)


def _outcomes(survey: Survey) -> str:
    groups = []
    for stage, outcomes in survey.outcomes.items():
        rows: list[list[str]] = []
        for outcome, count in sorted(outcomes.items(), key=lambda entry: (-entry[1], entry[0])):
            share = count / survey.considered
            label = f"{stage}, {outcome}: {100 * share:.1f} percent"
            rows.append(
                [
                    "<td></td>" if rows else f"<td>{escape(stage)}</td>",
                    f"<td><code>{escape(outcome)}</code></td>",
                    f"<td>{escape(OUTCOME_MEANINGS.get(outcome, ''))}</td>",
                    number_cell(f"{count:,}"),
                    number_cell(f"{100 * share:.1f}"),
                    f'<td class="plot">{bars([("a", share)], label)}</td>',
                ]
            )
        groups.append(rows)
    heads = text_heads("Stage", "Outcome", "Meaning") + number_heads("Samples", "%") + plot_head(axis())
    return section("outcomes", "Outcomes of each stage", table(heads, *groups))


def _table_2(survey: Survey) -> str:
    columns = [(name, split) for name, split in survey.splits.items()]
    columns += [(f"Paper: {name}", split) for name, split in PAPER.items()]
    unit = survey.unit
    facts: list[tuple[str, Callable[[Mapping[str, Any]], str]]] = [
        ("Total samples", lambda split: f"{split['samples']:,}"),
        ("Reasoning format compliance (%)", lambda split: f"{split['format_compliance']:.1f}"),
        (f"Thinking section length ({unit}; paper: tokens)", lambda split: plus_minus(split["think_tokens"])),
        (f"Answer section length ({unit}; paper: tokens)", lambda split: plus_minus(split["answer_tokens"])),
        ("Video and audio duration (s)", lambda split: plus_minus(split["duration_seconds"])),
        ("Primary resolution", lambda split: largest(split["resolutions"])),
    ]
    rows = [
        [f'<th scope="row">{escape(title)}</th>', *(number_cell(escape(cell(split))) for _, split in columns)]
        for title, cell in facts
    ]
    heads = text_heads("") + number_heads(*(name for name, _ in columns))
    note = "The kept traces by split, beside Table 2 of the paper. Lengths and durations: mean ± standard deviation."
    return section("table-2", "Traces", table(heads, rows), note)


def _distribution(key: str, survey: Survey, annotations: Distribution | None) -> str:
    """One part of Figure 0.B.4: shares in percent, in this run and in the paper."""
    columns: list[_Column] = [("Input", survey.input.shares()[key])]
    columns += [(f"Kept: {name}", split[key]) for name, split in survey.splits.items()]
    columns += [(f"Paper: {name}", split[key]) for name, split in PAPER.items() if key in split]
    if annotations is not None:
        columns.append(("Annotations", annotations.shares()[key]))
    colors = [SERIES[number % len(SERIES)] for number in range(len(columns))]
    considered, kept = getattr(survey.input, key), getattr(survey.kept, key)
    rows = []
    for name, shares in _shares_by_value(columns, PAPER["train"][key]):
        label = f"{name}: " + "; ".join(
            f"{column} {share:.1f} percent"
            for (column, _), share in zip(columns, shares, strict=True)
            if share is not None
        )
        drawn = [(color, share / 100) for color, share in zip(colors, shares, strict=True) if share is not None]
        rows.append(
            [
                f"<td>{escape(name)}</td>",
                f'<td class="plot">{bars(drawn, label)}</td>',
                *(number_cell("" if share is None else f"{share:.1f}") for share in shares),
                number_cell(_kept_share(name, considered, kept)),
            ]
        )
    swatches = " ".join(
        f'<span class="key"><span class="swatch series-{color}"></span>{escape(name)}</span>'
        for color, (name, _) in zip(colors, columns, strict=True)
    )
    heads = text_heads(FIGURE[key]) + plot_head(axis()) + number_heads(*(name for name, _ in columns), "Kept of input")
    return section(key, f"{FIGURE[key]} (%)", f"<p>{swatches}</p>" + table(heads, rows), _note(annotations, key))


def _note(annotations: Distribution | None, key: str) -> str:
    note = (
        "Input: all samples of the input shards, as their annotations name them; for shards of AVQA this is AVQA's own "
        "distribution. Paper: Figure 0.B.4."
    )
    if key == "modalities":
        note += " The figure gives modalities for both splits together."
    if annotations is not None:
        note += f" Annotations: the {annotations.question_types.total():,} questions of the annotation files given."
    return note


def _shares_by_value(columns: Sequence[_Column], listed: Mapping[str, float]) -> list[tuple[str, list[float | None]]]:
    """Shares of every value by column; `OTHERS` has, of this run, all that the paper does not list."""
    own = {
        value: share for name, shares in columns if not name.startswith("Paper: ") for value, share in shares.items()
    }
    further = sorted(set(own) - set(listed), key=lambda value: (-own[value], value))
    rows: list[tuple[str, list[float | None]]] = []
    for value in [*(value for value in listed if value != OTHERS), *further]:
        rows.append((value, [_share(name, shares, value) for name, shares in columns]))
    if OTHERS in listed:
        rows.append(
            (
                OTHERS,
                [
                    shares.get(OTHERS)
                    if name.startswith("Paper: ")
                    else sum(share for value, share in shares.items() if value not in listed)
                    for name, shares in columns
                ],
            )
        )
    return rows


def _share(name: str, shares: Mapping[str, float], value: str) -> float | None:
    """A value's share; None where the paper does not list it."""
    return shares.get(value) if name.startswith("Paper: ") else shares.get(value, 0.0)


def _kept_share(value: str, considered: Counter[str], kept: Counter[str]) -> str:
    return f"{100 * kept[value] / considered[value]:.1f}" if considered[value] else ""


def _certainty(found: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        [
            f"<td>{escape(name)}</td>",
            number_cell(f"{100 * float(share):.0f}"),
            number_cell(f"{numbers['questions']:,}"),
            number_cell(f"{numbers['right']:.1f}"),
        ]
        for name, certainty in found.items()
        for share, numbers in certainty["by_agreement"].items()
    ]
    heads = text_heads("Teacher") + number_heads("Equal answers (%)", "Questions", "Most common answer right (%)")
    return section("certainty", "How sure the teachers are", table(heads, rows))


def _judged(counts: Counter[str], kept: int) -> str:
    total = counts.total()
    rows = [
        [
            f"<td>{items_link(word, verdict=word)}</td>",
            number_cell(f"{count:,}"),
            number_cell(f"{100 * count / total:.1f}"),
            f'<td class="plot">{bars([("a", count / total)], f"{word}: {100 * count / total:.1f} percent")}</td>',
        ]
        for word, count in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    ]
    heads = text_heads("Verdict") + number_heads("Traces", "%") + plot_head(axis())
    note = (
        f"The judge read {total:,} of the {kept:,} kept traces of this run. `avrt judge` prints the rows of Table "
        "0.A.1 with intervals."
    )
    return section("verdicts", "Verdicts of the judge", table(heads, rows), note)
