"""The page of an experiment: every table with the paper's numbers, curves over each other, and the replies.

It opens from the disk: ``index.html`` has everything but the replies, which are a report of their own in ``replies/``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape as escape_html
from importlib.resources import files
from pathlib import Path
from string import Template

from avrt.evaluation.number_format import interval, p_value, percent, signed
from avrt.evaluation.report.page import write_report
from avrt.experiments.plan import ExperimentPlan
from avrt.experiments.results import Cell, Difference, RowResult, TableResult
from avrt.experiments.state import read_state
from avrt.experiments.text import METHOD
from avrt.files.atomic import write_atomic
from avrt.pages.event_curves import read_curves
from avrt.pages.line_plots import Curve, line_plot, style_of
from avrt.pages.page_files import style_policy
from avrt.pages.plots import Point, axis, interval_plot
from avrt.pages.tables import escape, number_cell, number_heads, plot_head, section, table, text_heads

PAGE_FILE = "index.html"
REPLIES = "replies"

CURVES = {
    "sft": {"loss": "loss", "val/accuracy": "accuracy on the validation questions"},
    "grpo": {
        "reward": "mean reward",
        "rewards/accuracy/mean": "accuracy reward",
        "rewards/format/mean": "format reward",
        "val/accuracy": "accuracy on the validation questions",
        "completions/mean_length": "tokens of a response",
        "entropy": "entropy",
    },
}
"""Curves of a training run, by stage kind: tag and title."""


def write_page(plan: ExperimentPlan, results: Sequence[TableResult], out: Path) -> Path:
    """Write the page; returns the file to open."""
    out.mkdir(parents=True, exist_ok=True)
    parts = [_table(result, plan) for result in results]
    parts += [_curves(plan, kind) for kind in ("grpo", "sft")]
    parts.append(_replies(plan, out))
    parts.append(_stages(plan))
    style = (files("avrt.pages") / "assets" / "page.css").read_text(encoding="utf-8")
    style += (files("avrt.experiments") / "assets" / "experiments.css").read_text(encoding="utf-8")
    template = Template((files("avrt.experiments") / "assets" / "experiments.html").read_text(encoding="utf-8"))
    seeds = ", ".join(map(str, plan.seeds))
    about = f"Base: {plan.base.title}. Seeds of training: {seeds}."
    text = template.substitute(
        title=escape(plan.title),
        about=escape(about),
        links=" ".join(f'<a href="#part-{escape(r.name)}">{escape(r.name)}</a>' for r in results),
        policy=style_policy(style),
        style=style,
        content="\n".join(part for part in parts if part),
    )
    write_atomic(out / PAGE_FILE, text.encode("utf-8", "xmlcharrefreplace"))
    return out / PAGE_FILE


def _table(result: TableResult, plan: ExperimentPlan) -> str:
    heads = text_heads("Arm")
    for title in result.columns:
        heads += [*number_heads(title), *(plot_head(axis()) if _has_plots(result) else ()), *number_heads("difference")]
    heads += number_heads(*(f"paper {title}" for title in result.paper_columns))
    rows = [_row(row, result) for row in result.rows]
    reference = plan.arms[result.reference].title
    note = f"{METHOD.format(reference=reference)}. {result.note}"
    return section(result.name, f"{result.name}: {result.title}", table(heads, rows), note)


def _row(row: RowResult, result: TableResult) -> list[str]:
    name = f"<strong>{escape(row.title)}</strong>"
    missing = f"<br><small>{escape(row.missing)}</small>" if row.missing else ""
    cells = [f"<td>{name}{missing}</td>"]
    for title, cell in zip(result.columns, row.cells, strict=True):
        cells += _cell(cell, f"{row.title}, {title}" if _has_plots(result) else None)
    cells += [number_cell("" if number is None else f"{number:.1f}") for number in row.paper]
    return cells + [number_cell("")] * (len(result.paper_columns) - len(row.paper))


def _has_plots(result: TableResult) -> bool:
    """Beside each other, several would not fit."""
    return len(result.columns) == 1


def _cell(cell: Cell | None, plot: str | None) -> list[str]:
    """The table cells of a number: itself, its plot with the words `plot` (None for no plot), its difference."""
    if cell is None:
        return [number_cell("–"), *(() if plot is None else ('<td class="plot"></td>',)), number_cell("")]
    drawn = []
    if plot is not None:
        points = [Point(cell.share, *cell.interval)]
        drawn = [f'<td class="plot">{interval_plot(points, f"{plot}: {percent(cell.share)} %")}</td>']
    small = [interval(cell.interval)]
    if len(cell.by_seed) > 1:
        small.append(f"seeds {' '.join(percent(share) for share in cell.by_seed)}")
    change: Difference | None = cell.difference
    return [
        number_cell(f"<strong>{percent(cell.share)}</strong>{_below(*small)}"),
        *drawn,
        number_cell("" if change is None else f"{signed(change.value)}{_below(*_evidence(change))}"),
    ]


def _evidence(change: Difference) -> tuple[str, str]:
    p = p_value(change.p_holm)
    return interval(change.interval, signed), escape_html(f"p {p}" if p.startswith("<") else f"p = {p}")


def _below(*lines: str) -> str:
    """Small print under a number."""
    return "".join(f"<br><small>{line}</small>" for line in lines)


def _curves(plan: ExperimentPlan, kind: str) -> str:
    """The curves of all runs of one kind over each other, of the first seed."""
    seed = plan.seeds[0]
    runs: dict[str, Path] = {}
    for stage in plan.stages.values():
        if stage.kind == kind and stage.name.endswith(f"-seed{seed}"):
            runs[", ".join(plan.arms[arm].title for arm in stage.arms)] = stage.folder / "run"
    read = {name: read_curves(folder, list(CURVES[kind])) for name, folder in runs.items() if folder.is_dir()}
    read = {name: curves for name, curves in read.items() if curves}
    if not read:
        return ""
    legend = " ".join(_key(number, name) for number, name in enumerate(read))
    plots = [
        f"<figure><figcaption>{escape(title)}</figcaption>{_plot(read, tag, title)}</figure>"
        for tag, title in CURVES[kind].items()
        if any(tag in curves for curves in read.values())
    ]
    content = f'<p class="legend">{legend}</p><div class="curves">{"".join(plots)}</div>'
    note = f"By optimizer step, seed {seed}. All curves: tensorboard --logdir {plan.folder / kind}"
    return section(f"curves-{kind}", f"Curves of {kind.upper()}", content, note)


def _plot(read: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]], tag: str, title: str) -> str:
    # An arm without the curve keeps its color: it has an empty one.
    return line_plot([Curve(name, curves.get(tag, [])) for name, curves in read.items()], title)


def _key(number: int, name: str) -> str:
    color, dashes = style_of(number)
    line = f'<line x1="0" x2="22" y1="5" y2="5"{f" stroke-dasharray={chr(34)}{dashes}{chr(34)}" if dashes else ""}/>'
    swatch = (
        f'<svg class="stroke" viewBox="0 0 22 10" width="22" height="10"><g class="series-{color}">{line}</g></svg>'
    )
    return f'<span class="key">{swatch}{escape(name)}</span>'


def _replies(plan: ExperimentPlan, out: Path) -> str:
    """The replies of all arms to the same items, with video and audio and with one of them masked."""
    seed = plan.seeds[0]
    arms = list(dict.fromkeys(evaluation.arm for evaluation in plan.expansion.evaluations))
    links = []
    for modalities, words in (("AV", "video and audio"), ("A", "audio only"), ("V", "video only")):
        folders = {arm: plan.expansion.evaluation(arm, seed, modalities) for arm in arms}
        found = {arm: folder for arm, folder in folders.items() if folder is not None and _has_records(folder)}
        if not found:
            continue
        first, *others = (folder / "run" for folder in found.values())
        report = write_report(first, out / f"{REPLIES}-{modalities}", *others, media=modalities == "AV")
        names = ", ".join(f"{chr(65 + n)} {plan.arms[arm].title}" for n, arm in enumerate(found))
        links.append(f'<li><a href="{report.page.relative_to(out)}">{words}</a>: {escape(names)}</li>')
    content = f"<ul>{''.join(links)}</ul>" if links else ""
    return section("replies", "Replies to the same items, side by side", content) if content else ""


def _has_records(folder: Path) -> bool:
    return any((folder / "run").glob("*/records*.jsonl"))


def _stages(plan: ExperimentPlan) -> str:
    rows = []
    for stage in plan.stages.values():
        state = read_state(stage)
        status = state.status if state else "not run"
        seconds = f"{state.seconds / 60:.1f}" if state else ""
        commands = "".join(f"<code>{escape(line)}</code><br>" for line in (state.commands if state else []))
        error = f'<br><span class="problem">{escape(state.error)}</span>' if state and state.error else ""
        rows.append(
            [
                f"<td>{escape(stage.name)}</td>",
                f"<td>{escape(status)}{error}</td>",
                number_cell(seconds),
                f"<td>{commands}</td>",
            ]
        )
    heads = [*text_heads("Stage", "State"), *number_heads("minutes"), *text_heads("Command")]
    return section("stages", "Stages", table(heads, rows))
