"""The page of a trace run: samples by the filter's reason, with replies, traces, frames and audio.

`avrt.pages.page_files` describes its files. The same ledger and the same shards give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from html import escape
from pathlib import Path, PurePath
from typing import Any

from avrt.data.faults import ShardError
from avrt.data.records import RecordError
from avrt.data.shards import ShardSet
from avrt.pages.clip_files import (
    JPEG_QUALITY,
    THUMBNAIL_PIXELS,
    ShownClip,
    clip_folder,
    read_clip,
    remove_other_clips,
    thumbnails,
    write_clip,
)
from avrt.pages.page_files import PageContent, Report, check_out, write_page
from avrt.traces.config import TracesConfig
from avrt.traces.decisions import Decided
from avrt.traces.report.items import details_of, index_of
from avrt.traces.report.summary import summary_html
from avrt.traces.report.survey import Distribution, Survey, TraceRun, distribution_of, survey
from avrt.traces.report.verdicts import Verdicts, read_verdicts

KIND = "traces"
LEGEND = """\
<span class="key"><b class="mark-kept">✓</b> kept</span>
<span class="key"><b class="mark-rejected">✗</b> rejected</span>
<span class="key"><b class="mark-missing">∅</b> calls are missing</span>"""


@dataclass(frozen=True)
class PageOptions:
    """What the page shows.

    Attributes:
        per_reason: samples per reason of the filter, chosen at random.
        seed: seed of that choice.
        media: show frames and audio.
        annotations: annotation files whose distribution is shown beside the run's, such as both of AVQA.
        judgments: output folder of ``avrt judge``, or None.
    """

    per_reason: int = 50
    seed: int = 0
    media: bool = True
    annotations: Sequence[str | Path] = field(default=())
    judgments: str | Path | None = None

    def __post_init__(self) -> None:
        if self.per_reason < 1:
            raise ValueError(f"per_reason: must be 1 or more, got {self.per_reason}")


def write_trace_report(
    config: TracesConfig,
    out: str | Path,
    options: PageOptions | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Report:
    """Write the page of a trace run, finished or not.

    Args:
        config: checked settings of the run.
        out: folder for the page, created if absent. An earlier page in it is replaced, its clips are kept.
        options: what it shows.
        on_progress: called with what is counted (``samples`` or ``clips``), the number done and of all.

    Raises:
        ValueError: nothing is recorded in the ledger, a file given does not fit, or `out` contains another page.
    """
    out, options = Path(out), options or PageOptions()
    report = on_progress or (lambda what, done, total: None)
    check_out(out, KIND)
    annotations = distribution_of(options.annotations) if options.annotations else None
    verdicts = None if options.judgments is None else read_verdicts(options.judgments)
    run = TraceRun(config)
    if not len(run.ledger):
        raise ValueError(f"ledger: {config.ledger} has no finished call; run `avrt traces` with this config first")
    found = survey(run, options.per_reason, options.seed, lambda done, total: report("samples", done, total))
    if verdicts is not None and not verdicts.counts(found.traces):
        raise ValueError(
            f"judgments: {options.judgments} has no verdict on a trace of this run; it is of another run, or of traces "
            "that were written before a change: run `avrt judge` on the present ones"
        )
    shown = [run.decide(index) for indices in found.chosen.values() for index in indices]
    records = {one.sample.id: run.shards.record(one.index) for one in shown}
    keys = {name: _clip_key(record) for name, record in records.items()}
    clips: dict[str, ShownClip] = {}
    if options.media:
        places = {keys[one.sample.id]: (one.index, records[one.sample.id]) for one in shown}
        clips = _export_clips(run.shards, places, out, lambda done, total: report("clips", done, total))
        remove_other_clips(out, clips)
    details = (details_of(run, one, clips.get(keys[one.sample.id]), verdicts) for one in shown)
    page = write_page(out, _content(run, found, shown, annotations, verdicts), details)
    first = {key: name for name, key in reversed(keys.items())}
    problems = {first[key]: clip.problem for key, clip in clips.items() if clip.problem}
    return Report(page, len(shown), len(clips), problems)


def _content(
    run: TraceRun,
    found: Survey,
    shown: Sequence[Decided],
    annotations: Distribution | None,
    verdicts: Verdicts | None,
) -> PageContent:
    name = "/".join(PurePath(run.config.output).parts[-2:])  # the page may be shared, a home folder's name not
    return PageContent(
        kind=KIND,
        title=name,
        heading=f"Traces: {escape(name)}",
        summary=summary_html(run, found, annotations, verdicts),
        legend=LEGEND,
        search=("question or id", "options, replies and traces"),
        index=index_of(run, shown, verdicts, found.reasons),
        package="avrt.traces.report",
        scripts=("data", "filters", "rows", "details"),
        style="traces.css",
    )


def _clip_key(record: dict[str, Any]) -> str:
    """The name of the clip's folder: the same for samples with the same media."""
    return hashlib.sha256(json.dumps(record["members"], sort_keys=True).encode()).hexdigest()[:16]


def _export_clips(
    shards: ShardSet, places: dict[str, tuple[int, dict[str, Any]]], out: Path, on_clip: Callable[[int, int], None]
) -> dict[str, ShownClip]:
    """Write the clips; `places` has a sample's index and JSON member for each."""
    written = {}
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        results = pool.map(lambda key: _export_clip(shards, *places[key], clip_folder(out, key)), places)
        for done, (key, clip) in enumerate(zip(places, results, strict=True), start=1):
            written[key] = clip
            on_clip(done, len(places))
    return written


def _export_clip(shards: ShardSet, index: int, record: dict[str, Any], folder: Path) -> ShownClip:
    if not record["members"]:
        return ShownClip(problem="the sample has no media")
    made_from = {
        "members": record["members"],
        "clip": record["clip"],
        "thumbnail_pixels": THUMBNAIL_PIXELS,
        "jpeg_quality": JPEG_QUALITY,
    }
    known = read_clip(folder, made_from)
    if known is not None:
        return known
    try:
        return write_clip(folder, thumbnails(shards.media(index)), made_from)
    except (ShardError, RecordError) as error:
        return ShownClip(problem=f"{error.reason}: {error.detail}")
