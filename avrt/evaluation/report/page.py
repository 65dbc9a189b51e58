"""The report: a page about one run, or several side by side, with tables, plots, and every item with its media.

`avrt.pages.page_files` describes its files. The same runs give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from avrt.evaluation.category_names import category_name
from avrt.evaluation.comparison import by_benchmark, compare_scored
from avrt.evaluation.records.record import Record
from avrt.evaluation.records.run_info import RunInfo
from avrt.evaluation.report.media import ClipExporter, clip_key
from avrt.evaluation.report.run_labels import badge, run_letter, series_of, title_of
from avrt.evaluation.report.summary import ERROR_TITLES, REASONS, Runs, summary_html
from avrt.evaluation.scoring import score_runs
from avrt.evaluation.sent_prompts import shown_prompt
from avrt.pages.clip_files import NO_MEDIA, ShownClip, remove_other_clips
from avrt.pages.page_files import PageContent, Report, check_out, write_page

KIND = "evaluation"
LEGEND = """\
<span class="key"><b class="mark-none">✓</b> right</span>
<span class="key"><b class="mark-logic">✗</b> logic error</span>
<span class="key"><b class="mark-instruction_format">!</b> format error</span>
<span class="key"><b class="mark-no_reply">∅</b> no reply</span>
<span id="flips"><span class="key"><i class="won"></i>won by B</span>
<span class="key"><i class="lost"></i>lost by B</span></span>"""


@dataclass(frozen=True)
class _Row:
    """One item with its record in each run (None if a run does not have it)."""

    benchmark: str
    records: tuple[Record | None, ...]
    infos: tuple[RunInfo | None, ...]

    @property
    def first(self) -> tuple[RunInfo, Record]:
        """The first run that has the item, and its record."""
        return next((i, r) for i, r in zip(self.infos, self.records, strict=True) if i is not None and r is not None)


def write_report(
    run: str | Path,
    out: str | Path,
    *others: str | Path,
    data: str | Path | None = None,
    media: bool = True,
    partial: bool = False,
    rule: str | None = None,
    on_clip: Callable[[int, int], None] | None = None,
) -> Report:
    """Write the page of one run, or of several on the same items.

    Args:
        run: folder of a run, or of one of its benchmarks; run A of a comparison.
        out: folder for the page, created if absent. An earlier report in it is replaced, its clips are kept.
        others: runs B, C, ...
        data: folder of the benchmarks' data, if it is not where the runs found it.
        media: show frames and audio; without them the page is created in seconds.
        partial: accept unfinished runs.
        rule: see `avrt.evaluation.scoring.grade_record`.
        on_clip: called with the number of clips done and of all clips, for a progress bar.

    Raises:
        ValueError: no run, an unfinished one, runs on different questions, or `out` contains another page.
    """
    out = Path(out)
    check_out(out, KIND)
    runs = [by_benchmark(scored) for scored in score_runs((run, *others), partial=partial, rule=rule)]
    comparison = compare_scored(runs, partial=partial)
    rows = list(_rows(runs))
    clips = _export_clips(rows, out, data, on_clip) if media else {}
    page = write_page(out, _content(runs, rows, comparison), (_details(row, clips) for row in rows))
    problems: dict[str, str] = {}
    named: set[str] = set()
    for row in rows:
        record = row.first[1]
        key = clip_key(record)
        if key in clips and key not in named and (problem := clips[key].problem):
            problems[f"{row.benchmark}/{record.id}"] = problem
        named.add(key)
    return Report(page, len(rows), len(clips), problems)


def _rows(runs: Runs) -> Iterator[_Row]:
    """All items of all runs, each once, benchmark by benchmark in its own order."""
    for benchmark in dict.fromkeys(name for run in runs for name in run):
        entries = [run.get(benchmark) for run in runs]
        by_id = [{record.id: record for record in entry.records} if entry else {} for entry in entries]
        places = {record.id: record.index for records in by_id for record in records.values()}
        infos = tuple(entry.info if entry else None for entry in entries)
        for item in sorted(places, key=lambda item: (places[item], item)):
            yield _Row(benchmark, tuple(records.get(item) for records in by_id), infos)


def _export_clips(
    rows: Sequence[_Row], out: Path, data: str | Path | None, on_clip: Callable[[int, int], None] | None
) -> dict[str, ShownClip]:
    exporter = ClipExporter(out, data)
    items = [row.first for row in rows]
    total, done = len({clip_key(record) for _, record in items}), 0

    def count() -> None:
        nonlocal done
        done += 1
        if on_clip is not None:
            on_clip(done, total)

    clips = exporter.export(items, on_clip=count)
    remove_other_clips(out, clips)
    return clips


def _details(row: _Row, clips: Mapping[str, ShownClip]) -> dict[str, Any]:
    """The data of an item that the page shows when it is opened."""
    _, record = row.first
    asked = [
        shown_prompt(info, reply) if reply is not None and info is not None else ""
        for reply, info in zip(row.records, row.infos, strict=True)
    ]
    prompts = [prompt for prompt in dict.fromkeys(asked) if prompt]
    return {
        "options": record.options,
        "officialGold": record.official_gold,
        "clip": clips.get(clip_key(record), NO_MEDIA).as_dict(),
        "prompts": prompts,
        "replies": [
            reply
            and {
                "text": reply.text,
                "finish": reply.finish_reason,
                "failure": reply.failure_detail,
                "promptTokens": reply.prompt_tokens,
                "tokens": reply.completion_tokens,
                "seconds": reply.latency_seconds,
                "prompt": prompts.index(prompt) if prompt else None,
            }
            for reply, prompt in zip(row.records, asked, strict=True)
        ],
    }


def _index(runs: Runs, rows: Sequence[_Row]) -> dict[str, Any]:
    """The data of every item that the list and its filters need, as compact rows of indices into tables."""
    benchmarks = list(dict.fromkeys(row.benchmark for row in rows))
    categories: list[dict[str, dict[str, int]]] = [{} for _ in benchmarks]
    reasons: dict[str, int] = {}
    errors = list(ERROR_TITLES)
    items = []
    for row in rows:
        _, record = row.first
        place = benchmarks.index(row.benchmark)
        values = {}
        for name, value in record.categories.items():
            numbers = categories[place].setdefault(name, {})
            values[list(categories[place]).index(name)] = numbers.setdefault(value, len(numbers))
        outcomes = [
            reply
            and [
                reply.answer,
                reasons.setdefault(reply.reason or "", len(reasons)),
                errors.index(reply.error_type or "none"),
                *(
                    None if outcome is None else int(outcome)
                    for outcome in (reply.correct_official, reply.correct_official_answer)
                ),
            ]
            for reply in row.records
        ]
        items.append([place, record.id, record.index, record.question, record.gold, values, outcomes])
    return {
        "runs": [
            {
                "name": next(iter(run.values())).info.run,
                "letter": run_letter(number),
                "series": series_of(number),
                "modalities": {name: entry.info.modalities for name, entry in run.items()},
            }
            for number, run in enumerate(runs)
        ],
        "benchmarks": [
            {
                "name": name,
                "title": title_of(name),
                "categories": [
                    {"name": key, "title": category_name(key), "values": list(values)}
                    for key, values in categories[place].items()
                ],
            }
            for place, name in enumerate(benchmarks)
        ],
        "reasons": [{"name": name, "meaning": REASONS.get(name, "")} for name in reasons],
        "errors": [{"name": name, "title": title} for name, title in ERROR_TITLES.items()],
        "items": items,
    }


def _content(runs: Runs, rows: Sequence[_Row], comparison: Mapping[str, Any]) -> PageContent:
    names = [next(iter(run.values())).info.run for run in runs]
    return PageContent(
        kind=KIND,
        title=", ".join(names),
        heading=" ".join(f"{badge(number)}{escape(name)}" for number, name in enumerate(names))
        if len(names) > 1
        else escape(names[0]),
        summary=summary_html(runs, comparison),
        legend=LEGEND,
        search=("question or id", "options and replies"),
        index=_index(runs, rows),
        package="avrt.evaluation.report",
        scripts=("data", "filters", "rows", "details"),
        style="report.css",
    )
