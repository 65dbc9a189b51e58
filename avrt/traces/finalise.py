"""From ledger and input shards to the shards that fine-tuning reads: a pure function, equal input gives equal bytes."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from avrt.data.manifest import Manifest, ShardSummary, write_manifest
from avrt.data.writer import OpenShard
from avrt.files.atomic import write_atomic
from avrt.servers.config import Stage
from avrt.text.answers import answer_body
from avrt.traces.config import STAGES, TracesConfig
from avrt.traces.ledger import LedgerError, LedgerIndex
from avrt.traces.output import (
    SETTINGS_KEY,
    STATISTICS_NAME,
    check_output,
    is_written,
    remove_outdated,
    shard_path,
)
from avrt.traces.planning import TEACHERS, Planner, TeacherReply
from avrt.traces.stage_report import StageReport
from avrt.traces.statistics import SplitStatistics
from avrt.traces.tokens import token_counter
from avrt.traces.variants import MISSING, judge

log = logging.getLogger(__name__)

FILTER_VERSION = 2
"""Raised whenever a change here or in the answer parser lets other samples through; written beside the shards."""


@dataclass(frozen=True)
class Row:
    """One sample that is kept; the teachers' texts are read again when it is written."""

    index: int
    sample_id: str
    split: str
    trace: str
    texts_sha256: str


@dataclass
class _Decided:
    """What the filter made of all samples.

    Attributes:
        rows: samples to write, sorted by id.
        statistics: as saved.
        left_out: samples that are not written, by split and reason.
        reports: the recorded calls, by stage.
    """

    rows: list[Row] = field(default_factory=list)
    statistics: dict[str, Any] = field(default_factory=dict)
    left_out: dict[str, Counter[str]] = field(default_factory=dict)
    reports: dict[Stage, StageReport] = field(default_factory=dict)


def finalise(planner: Planner, explain: Collection[Stage] = ()) -> dict[str, Any]:
    """Filter, and write shards, manifests and ``statistics.json`` to the config's `output`, see `avrt.traces.output`.

    Samples are sorted by id, media bytes are copied unchanged from the input shards, and nothing that differs between
    two runs (time, order, latency, attempts) is written. A finished output of the same content is left alone.

    Args:
        planner: config and shards.
        explain: stages whose failed calls are named in a warning.

    Returns:
        The statistics, as saved.

    Raises:
        ValueError: calls are missing and `allow_missing` is off, nothing is left of a split after the filter, or
            `output` holds something else.
        OSError: the disk is full or failing; no partial shard is visible.
    """
    config = planner.config
    out = Path(config.output)
    check_output(out, config.shards)
    ledger = LedgerIndex(config.ledger)
    decided = _decide(planner, ledger)
    for stage in explain:
        if reasons := decided.reports[stage].explain():
            log.warning("%s: %s", stage, reasons)
    splits = sorted({row.split for row in decided.rows})
    check_output(out, config.shards, splits)
    fingerprint = _fingerprint(planner, decided.rows)
    decided.statistics["fingerprint"] = fingerprint
    remove_outdated(out, splits, fingerprint)
    _write_splits(planner, ledger, decided, out, fingerprint)
    text = json.dumps(decided.statistics, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    write_atomic(out / STATISTICS_NAME, text.encode())
    return decided.statistics


def _manifest_settings(planner: Planner, fingerprint: str) -> dict[str, Any]:
    config = planner.config
    return {
        SETTINGS_KEY: {
            "fingerprint": fingerprint,
            "filter_version": FILTER_VERSION,
            "variant": config.variant,
            "val_share": config.val_share,
            "split_seed": config.split_seed,
            "models": {stage: _model_settings(planner, stage) for stage in STAGES},
        },
        "input": planner.shards.fingerprint,
    }


def split_of(source: str, seed: int, val_share: float) -> str:
    """``train`` or ``val``, the same for all questions about a clip, on every machine."""
    return "val" if _place(source, seed) < val_share * _PLACES else "train"


_PLACES = 2**64


def _place(source: str, seed: int) -> int:
    """A clip's place in the order by which clips become ``val``, from 0 to `_PLACES` - 1."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{source}".encode()).digest()[:8], "big")


def _decide(planner: Planner, ledger: LedgerIndex) -> _Decided:
    """Judge every sample."""
    config, shards = planner.config, planner.shards
    count_tokens, unit = token_counter(config.tokenizer)
    splits: dict[str, SplitStatistics] = {}
    reasons: Counter[str] = Counter()
    outcomes: dict[Stage, Counter[str]] = {stage: Counter() for stage in STAGES}
    missing: Counter[Stage] = Counter()
    decided = _Decided(reports={stage: StageReport() for stage in STAGES})
    for index in range(len(shards)):
        record = shards.record(index)
        sample, replies = planner.teacher_replies(index, ledger)
        merge = planner.merge_call(index, sample, replies)
        merged = ledger.get(merge.key) if merge else None
        for stage, call in (*((stage, replies[stage].record) for stage in TEACHERS), ("merge", merged)):
            decided.reports[stage].add_earlier(call)
        verdict = judge(sample, replies, merged, config.variant)
        reasons[verdict.reason] += 1
        for stage, outcome in verdict.outcomes.items():
            outcomes[stage][outcome] += 1
            missing[stage] += outcome == MISSING
        split = sample.split
        if config.val_share is not None:
            split = split_of(sample.source or sample.id, config.split_seed, config.val_share)
        left_out = decided.left_out.setdefault(split, Counter())
        if verdict.trace is None:
            left_out[verdict.reason] += 1
            continue
        letter = answer_body(verdict.trace) or verdict.trace
        splits.setdefault(split, SplitStatistics()).add(record, verdict.trace, letter, count_tokens)
        texts = json.dumps(_teacher_texts(replies), sort_keys=True)
        decided.rows.append(Row(index, sample.id, split, verdict.trace, hashlib.sha256(texts.encode()).hexdigest()))
    _refuse_missing(config, missing, decided.reports)
    if not decided.rows:
        raise ValueError(f"no trace is left of {len(shards)} samples: {_counts(reasons)}{_explained(decided.reports)}")
    _refuse_empty_splits(planner, decided)
    decided.rows.sort(key=lambda row: row.sample_id)
    decided.statistics = {
        "variant": config.variant,
        "unit": unit,
        "considered": len(shards),
        "splits": {name: splits[name].summary() for name in sorted(splits)},
        "yield": dict(sorted(reasons.items())),
        "outcomes": {stage: dict(sorted(counts.items())) for stage, counts in outcomes.items()},
    }
    return decided


def _refuse_missing(config: TracesConfig, missing: Counter[Stage], reports: dict[Stage, StageReport]) -> None:
    lacking = [f"{missing[stage]} of stage {stage}" for stage in STAGES if missing[stage]]
    if lacking and not config.allow_missing:
        raise LedgerError(
            f"{config.ledger}: calls are missing ({', '.join(lacking)}); run the stages again, or set allow_missing "
            f"to write the traces that there are{_explained(reports)}"
        )


def _refuse_empty_splits(planner: Planner, decided: _Decided) -> None:
    """A split without a sample would be found out only when fine-tuning looks for its folder."""
    config = planner.config
    kept = Counter(row.split for row in decided.rows)
    for name in ["train", "val"] if config.val_share else list(decided.left_out):
        if kept[name]:
            continue
        if not config.val_share:
            raise ValueError(
                f"split: no trace is left of the samples of split {name!r} ({_counts(decided.left_out[name])}); set "
                "`split` to make traces for another split alone"
            )
        samples = [planner.shards.metadata(row.index) for row in decided.rows]
        places = sorted(_place(sample.source or sample.id, config.split_seed) for sample in samples)
        clips = len(set(places))
        if clips == 1:
            fix = "set it to 0 for no split val"
        elif name == "val":
            fix = f"set it to {math.ceil(1000 * places[0] / _PLACES + 1e-9) / 1000:g} or more, or to 0 for no split val"
        else:
            fix = f"set it to {math.floor(1000 * places[-1] / _PLACES) / 1000:g} or less"
        raise ValueError(
            f"val_share: {config.val_share:g} leaves split {name!r} empty: {len(samples)} samples about {clips} clips "
            f"are kept, all of the other split; {fix} (no call is made again)"
        )


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.most_common(5))


def _explained(reports: dict[Stage, StageReport]) -> str:
    """Why calls failed, by stage, to end a message with."""
    parts = [f"{stage}: {reasons}" for stage, report in reports.items() if (reasons := report.explain())]
    return "".join(f"; {part}" for part in parts)


def _write_splits(planner: Planner, ledger: LedgerIndex, decided: _Decided, out: Path, fingerprint: str) -> None:
    settings = _manifest_settings(planner, fingerprint)
    columns = (TextColumn("{task.description:<6}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("write", total=len(decided.rows))
        for split in sorted({row.split for row in decided.rows}):
            rows = [row for row in decided.rows if row.split == split]
            if not is_written(out, split, fingerprint):
                summaries = _write_shards(planner, ledger, rows, out, split, lambda: progress.advance(task))
                write_manifest(out / split, Manifest(summaries, settings, dict(decided.left_out[split])))
            else:
                progress.advance(task, len(rows))


def _write_shards(
    planner: Planner, ledger: LedgerIndex, rows: list[Row], out: Path, split: str, on_sample: Callable[[], None]
) -> tuple[ShardSummary, ...]:
    (out / split).mkdir(parents=True, exist_ok=True)
    size = planner.config.samples_per_shard
    summaries: list[ShardSummary] = []
    for begin in range(0, len(rows), size):
        with OpenShard(shard_path(out, split, len(summaries))) as shard:
            for row in rows[begin : begin + size]:
                sample, replies = planner.teacher_replies(row.index, ledger)
                shard.write(
                    replace(sample, split=split, trace=row.trace, teacher_traces=_teacher_texts(replies)),
                    planner.shards.media(row.index),
                )
                on_sample()
        assert shard.summary is not None
        summaries.append(shard.summary)
    return tuple(summaries)


def _teacher_texts(replies: dict[Stage, TeacherReply]) -> dict[str, str]:
    """Each teacher's whole reply as it came, by stage name."""
    records = {stage: replies[stage].record for stage in TEACHERS}
    return {str(stage): record.reply for stage, record in records.items() if record is not None}


def _fingerprint(planner: Planner, rows: list[Row]) -> str:
    """SHA-256 of everything that decides the output's bytes."""
    config = planner.config
    settings = [FILTER_VERSION, config.variant, config.val_share, config.split_seed, config.samples_per_shard]
    head = [planner.shards.fingerprint, settings, {stage: _model_settings(planner, stage) for stage in STAGES}]
    digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    for row in rows:
        digest.update(json.dumps([row.sample_id, row.split, row.trace, row.texts_sha256], ensure_ascii=False).encode())
    return digest.hexdigest()


def _model_settings(planner: Planner, stage: Stage) -> dict[str, Any]:
    model = planner.models[stage]
    prompt = hashlib.sha256(planner.prompts[stage].encode()).hexdigest()
    return {"model": model.name, "revision": model.revision, "sampling": dict(model.sampling), "prompt_sha256": prompt}
