"""Annotations that come with reasoning, as the published AVRT-20K does, to shards for fine-tuning.

No server is called. A row is kept where its reasoning follows the format and answers with the gold option; every other
outcome is counted. The kept rows are divided by clip into ``<output>/train`` and ``<output>/val``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from avrt.data.clip_sources import ClipSource
from avrt.data.clip_workers import ClipSettings
from avrt.data.manifest import MANIFEST_NAME
from avrt.data.packing import PackOptions, PackReport, pack
from avrt.files.atomic import write_atomic
from avrt.sample import LeftOut, Sample
from avrt.storage.locations import join
from avrt.storage.uploads import output_folder
from avrt.text.targets import TargetError, checked_target
from avrt.traces.output import STATISTICS_NAME
from avrt.traces.splits import explain_empty_split, split_of
from avrt.traces.statistics import PAPER, SplitStatistics, token_counter


@dataclass(frozen=True)
class PublishedOptions:
    """How annotations with reasoning become shards.

    Attributes:
        val_share: share of the clips for split ``val``; 0 for none.
        split_seed: seed of that choice.
        tokenizer: folder of a tokenizer that counts the statistics' tokens; None counts words and punctuation.
    """

    val_share: float
    split_seed: int = 0
    tokenizer: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.val_share < 1:
            raise ValueError(f"val_share: must be 0 or more and below 1, got {self.val_share:g}")


def pack_traces(
    samples: Sequence[Sample],
    left_out: Sequence[LeftOut],
    clips: str | Path | ClipSource,
    out_dir: str | Path,
    settings: ClipSettings,
    options: PackOptions,
    published: PublishedOptions,
) -> tuple[dict[str, Any], dict[str, PackReport]]:
    """Filter, split by clip, and pack; resumes as `avrt.data.packing.pack` does.

    Args:
        samples: the questions, with their reasoning as it is in `trace`.
        left_out: rows that were left out before, to be counted with the others.
        clips: see `avrt.data.packing.pack`.

    Returns:
        The statistics, as saved in ``statistics.json``, and the report of each split.

    Raises:
        ValueError: no reasoning is kept, or only of one split; or see `pack`.
    """
    out = output_folder(out_dir)
    count_tokens, unit = token_counter(published.tokenizer)
    kept, dropped = filter_reasoning(samples)
    dropped = [*left_out, *dropped]
    if not kept:
        raise ValueError(f"no row has reasoning that can be kept: {_counts(entry.reason for entry in dropped)}")
    present = out.names()
    if MANIFEST_NAME in present:
        raise ValueError(f"out: {out.location} holds shards itself, not folders train and val; choose another folder")
    names = ("train", "val") if published.val_share else ("train",)
    parts = {name: [sample for sample in kept if _split(sample.source, published) == name] for name in names}
    for name in ("train", "val"):
        if name in names and not parts[name]:
            raise ValueError(explain_empty_split(name, [sample.source for sample in kept], published))
        if name not in names and any(other.startswith(f"{name}/") for other in present):
            raise ValueError(f"out: {join(out.location, name)} is of an earlier run with a split val; remove it")
    reports = {}
    for name, members in parts.items():
        reports[name] = pack(
            [replace(sample, split=name) for sample in members],
            clips,
            join(str(out_dir), name),
            settings,
            options,
            left_out=[entry for entry in dropped if _split(entry.source, published) == name],
            stated={"val_share": published.val_share, "split_seed": published.split_seed},
        )
    statistics = {
        "variant": "published",
        "unit": unit,
        "considered": len(samples) + len(left_out),
        "splits": {name: _summary(parts[name], reports[name], count_tokens) for name in names},
        "yield": {
            "kept": sum(report.manifest.samples for report in reports.values()),
            **Counter(entry.reason for report in reports.values() for entry in report.left_out),
        },
        "outcomes": {},
    }
    text = json.dumps(statistics, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    out.folder.mkdir(parents=True, exist_ok=True)
    write_atomic(out.folder / STATISTICS_NAME, text.encode())
    out.publish(STATISTICS_NAME)
    return statistics, reports


def filter_reasoning(samples: Iterable[Sample]) -> tuple[list[Sample], list[LeftOut]]:
    """The samples whose reasoning can be taught, with it as target text, and the others with their reason."""
    kept, left_out = [], []
    for sample in samples:
        try:
            kept.append(replace(sample, trace=checked_target(sample)))
        except TargetError as error:
            left_out.append(LeftOut(sample.id, sample.source, error.reason, error.detail))
    return kept, left_out


def compare_with_paper(statistics: dict[str, Any]) -> str:
    """A line: how many samples there are, against the paper."""
    ours = " + ".join(f"{split['samples']:,} {name}" for name, split in statistics["splits"].items())
    theirs = " + ".join(f"{split['samples']:,} {name}" for name, split in PAPER.items())
    kept = statistics["yield"]["kept"]
    return f"{kept:,} of {statistics['considered']:,} rows are kept: {ours}; the paper's AVRT-20K has {theirs}"


def _split(source: str, published: PublishedOptions) -> str:
    """The split of a clip; rows without one are listed with ``train``."""
    return split_of(source, published.split_seed, published.val_share) if source else "train"


def _summary(samples: Sequence[Sample], report: PackReport, count_tokens: Callable[[str], int]) -> dict[str, Any]:
    statistics = SplitStatistics()
    for sample in samples:
        if sample.id in report.clips:
            duration, width, height = report.clips[sample.id]
            record = {name: getattr(sample, name) for name in ("question_type", "modality", "source")}
            record["clip"] = {"duration": duration, "width": width, "height": height}
            statistics.add(record, sample.trace or "", sample.gold, count_tokens)
    return statistics.summary()


def _counts(reasons: Iterable[str]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in Counter(reasons).most_common())
