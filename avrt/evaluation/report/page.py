"""The report: a page about one run, or several side by side, with tables, plots, and every item with its media.

The page opens from the disk, without a server or a network::

    DIR/index.html             the page: tables, script, style, and an index of the items
    DIR/data/items-0000.js     options, replies and media of items 0 to 199, loaded when one of them is opened; ...
    DIR/media/<clip>/          thumbnails and audio, see `avrt.evaluation.report.media`

A page opened from the disk may load scripts but not read files, so the data are scripts. Replies are untrusted text:
they reach the page as JSON, never as HTML, and the page's content security policy allows only its own script.

The same runs give the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from avrt.evaluation.category_names import category_name
from avrt.evaluation.comparison import by_benchmark, compare_scored
from avrt.evaluation.records.record import Record
from avrt.evaluation.records.run_info import RunInfo
from avrt.evaluation.report.media import ClipExporter, ShownClip, clip_key
from avrt.evaluation.report.summary import ERROR_TITLES, REASONS, Runs, summary_html, title_of
from avrt.evaluation.report.tables import badge, run_letter, series_of
from avrt.evaluation.scoring import score_runs
from avrt.evaluation.sent_prompts import shown_prompt
from avrt.files.atomic import write_atomic

PAGE_FILE = "index.html"
DATA_FOLDER = "data"
CHUNK_ITEMS = 200
"""Items per data file: small enough to load at once, large enough that 30,000 items do not become too many files."""

SCRIPT_PARTS = ("elements", "data", "filters", "list", "item", "main")
"""Files of the page's script; `main` uses the others."""

GENERATOR = "avrt report"
"""Marks a page of this project, which may be overwritten."""

NO_MEDIA = ShownClip(problem="this page was created without media")


@dataclass(frozen=True)
class Report:
    """A report that was written.

    Attributes:
        page: the file to open.
        items: items on it.
        clips: clips of these items.
        problems: why a clip cannot be shown, by its first item (``benchmark/id``).
    """

    page: Path
    items: int
    clips: int
    problems: dict[str, str]


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
    _check_out(out)
    runs = [by_benchmark(scored) for scored in score_runs((run, *others), partial=partial, rule=rule)]
    comparison = compare_scored(runs, partial=partial)
    rows = list(_rows(runs))
    clips = _export_clips(rows, out, data, on_clip) if media else {}
    _write_chunks(out / DATA_FOLDER, rows, clips)
    write_atomic(out / PAGE_FILE, _page(runs, rows, comparison).encode("utf-8", "xmlcharrefreplace"))
    problems: dict[str, str] = {}
    named: set[str] = set()
    for row in rows:
        record = row.first[1]
        key = clip_key(record)
        if key in clips and key not in named and (problem := clips[key].problem):
            problems[f"{row.benchmark}/{record.id}"] = problem
        named.add(key)
    return Report(out / PAGE_FILE, len(rows), len(clips), problems)


def embed_json(value: Any) -> str:
    """JSON for a script element or file: ASCII, and without the characters that could end the element."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _check_out(out: Path) -> None:
    page = out / PAGE_FILE
    if page.is_file() and f'content="{GENERATOR}"' not in page.read_text(encoding="utf-8", errors="replace")[:2000]:
        raise ValueError(f"{page}: is not a report of this project and would be overwritten; choose another --out")


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
    exporter.remove_others(clips)
    return clips


def _write_chunks(folder: Path, rows: Sequence[_Row], clips: Mapping[str, ShownClip]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    written = set()
    for number, start in enumerate(range(0, len(rows), CHUNK_ITEMS)):
        details = [_details(row, clips) for row in rows[start : start + CHUNK_ITEMS]]
        path = folder / f"items-{number:04d}.js"
        write_atomic(path, f"avrtReport.receive({number},{embed_json(details)});\n".encode("ascii"))
        written.add(path)
    for path in folder.glob("items-*.js"):
        if path not in written:
            path.unlink()


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
        "chunk": CHUNK_ITEMS,
        "items": items,
    }


def _page(runs: Runs, rows: Sequence[_Row], comparison: Mapping[str, Any]) -> str:
    names = [next(iter(run.values())).info.run for run in runs]
    style, script = _asset("report.css"), _script()
    return Template(_asset("report.html")).substitute(
        generator=GENERATOR,
        title=escape(", ".join(names)),
        heading=" ".join(f"{badge(number)}{escape(name)}" for number, name in enumerate(names))
        if len(names) > 1
        else escape(names[0]),
        policy=_policy(style, script),
        style=style,
        script=script,
        summary=summary_html(runs, comparison),
        index=embed_json(_index(runs, rows)),
    )


def _policy(style: str, script: str) -> str:
    """The content security policy: this page's own script and style, and files beside it; nothing from a network.

    ``'self'`` applies to a page on a server; opened from the disk, the files beside it have the scheme ``file:``.
    """
    return (
        f"default-src 'none'; script-src '{_hash(script)}' 'self' file:; style-src '{_hash(style)}'; "
        "img-src 'self' file:; media-src 'self' file:; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _script() -> str:
    """All parts of the page's script, in one scope."""
    parts = "\n".join(_asset(f"{name}.js") for name in SCRIPT_PARTS)
    return f'"use strict";\nconst avrtReport = (() => {{\n{parts}\nreturn {{ receive }};\n}})();\n'


def _asset(name: str) -> str:
    return (files("avrt.evaluation.report") / "assets" / name).read_text(encoding="utf-8")
