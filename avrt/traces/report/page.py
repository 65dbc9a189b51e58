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
from pathlib import Path

from avrt.data.faults import ShardError
from avrt.data.records import RecordError
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
from avrt.traces.report.items import details_of, index_of
from avrt.traces.report.summary import summary_html
from avrt.traces.report.survey import Decided, Distribution, Survey, TraceRun, distribution_of, survey
from avrt.traces.report.verdicts import Verdicts, read_verdicts

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
    check_out(out)
    annotations = distribution_of(options.annotations) if options.annotations else None
    verdicts = None if options.judgments is None else read_verdicts(options.judgments)
    run = TraceRun(config)
    if not len(run.ledger):
        raise ValueError(f"ledger: {config.ledger} has no finished call; run `avrt traces` with this config first")
    found = survey(run, options.per_reason, options.seed, lambda done, total: report("samples", done, total))
    shown = [run.decide(index) for indices in found.chosen.values() for index in indices]
    clips = _export_clips(run, shown, out, lambda done, total: report("clips", done, total)) if options.media else {}
    if options.media:
        remove_other_clips(out, clips)
    details = (details_of(run, one, clips.get(_clip_key(one)), verdicts) for one in shown)
    page = write_page(out, _content(run, found, shown, annotations, verdicts), details)
    problems: dict[str, str] = {}
    named: set[str] = set()
    for one in shown:
        key = _clip_key(one)
        if key in clips and key not in named and (problem := clips[key].problem):
            problems[one.sample.id] = problem
        named.add(key)
    return Report(page, len(shown), len(clips), problems)


def _content(
    run: TraceRun,
    found: Survey,
    shown: Sequence[Decided],
    annotations: Distribution | None,
    verdicts: Verdicts | None,
) -> PageContent:
    name = run.config.output
    return PageContent(
        kind="traces",
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


def _clip_key(one: Decided) -> str:
    """The name of the clip's folder: the same for samples with the same media."""
    members = {name: list(entry) for name, entry in one.record["members"].items()}
    return hashlib.sha256(json.dumps(members, sort_keys=True).encode()).hexdigest()[:16]


def _export_clips(
    run: TraceRun, shown: Sequence[Decided], out: Path, on_clip: Callable[[int, int], None]
) -> dict[str, ShownClip]:
    clips = {_clip_key(one): one for one in shown}
    written = {}
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        results = pool.map(lambda entry: _export_clip(run, entry[1], clip_folder(out, entry[0])), clips.items())
        for done, (key, clip) in enumerate(zip(clips, results, strict=True), start=1):
            written[key] = clip
            on_clip(done, len(clips))
    return written


def _export_clip(run: TraceRun, one: Decided, folder: Path) -> ShownClip:
    members = one.record["members"]
    if not members:
        return ShownClip(problem="the sample has no media")
    made_from = {
        "members": {name: list(entry) for name, entry in members.items()},
        "clip": one.record["clip"],
        "thumbnail_pixels": THUMBNAIL_PIXELS,
        "jpeg_quality": JPEG_QUALITY,
    }
    known = read_clip(folder, made_from)
    if known is not None:
        return known
    try:
        return write_clip(folder, thumbnails(run.shards.media(one.index)), made_from)
    except (ShardError, RecordError) as error:
        return ShownClip(problem=f"{error.reason}: {error.detail}")
