"""The last step: from ledger and input shards to the shards that fine-tuning reads. Deterministic."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from avrt.data.manifest import MANIFEST_NAME, Manifest, ShardSummary, write_manifest
from avrt.data.writer import OpenShard
from avrt.files.atomic import write_atomic
from avrt.servers.call_report import CallReport
from avrt.storage.uploads import OutputFolder, output_folder
from avrt.text.answers import answer_body
from avrt.traces.call_planner import CallPlanner
from avrt.traces.config import MERGE, TracesConfig
from avrt.traces.decisions import decide
from avrt.traces.filter_rules import MISSING
from avrt.traces.ledger import LedgerError, LedgerIndex
from avrt.traces.output import (
    SETTINGS_KEY,
    STATISTICS_NAME,
    check_output,
    remove_extra,
    remove_outdated,
    shard_name,
)
from avrt.traces.recorded_calls import RETRY_REJECTED
from avrt.traces.splits import explain_empty_split
from avrt.traces.statistics import CertaintyStatistics, SplitStatistics, token_counter
from avrt.traces.teacher_replies import TeacherReply

log = logging.getLogger(__name__)

CERTAINTY_KEY = "teacher_certainty"
"""Key of `Sample.extra`: by teacher with several replies, their number, the share with the most common answer, and the
share that is right."""

FILTER_VERSION = 3
"""Increased whenever a change here or in the answer parser keeps other samples; written to the manifest."""


@dataclass(frozen=True)
class Row:
    """One kept sample; the teachers' texts are read again when it is written."""

    index: int
    sample_id: str
    split: str
    trace: str
    texts_sha256: str


@dataclass
class _Selection:
    """The filter's result for all samples.

    Attributes:
        rows: samples to write, sorted by id.
        statistics: as saved.
        dropped: samples that are not written, by split and reason.
        reports: the recorded calls, by stage.
    """

    rows: list[Row] = field(default_factory=list)
    statistics: dict[str, Any] = field(default_factory=dict)
    dropped: dict[str, Counter[str]] = field(default_factory=dict)
    reports: dict[str, CallReport] = field(default_factory=dict)


def finalize(planner: CallPlanner, explain: Collection[str] = ()) -> dict[str, Any]:
    """Filter, and write shards, manifests and ``statistics.json`` to the config's `output`, see `avrt.traces.output`.

    Samples are sorted by id, media bytes are copied unchanged from the input shards, and nothing that differs between
    two runs (time, order, latency, attempts) is written. A finished output of the same content is not written again.

    Args:
        planner: config and shards.
        explain: stages whose failed calls a warning names.

    Returns:
        The statistics, as saved.

    Raises:
        ValueError: calls are missing and `allow_missing` is off, the filter drops every sample of a split, or `output`
            has other files.
        OSError: the disk is full or failing; no partial shard is visible.
    """
    config = planner.config
    out = output_folder(config.output)
    check_output(out, config.shards)
    ledger = LedgerIndex(config.ledger)
    selection = _select(planner, ledger)
    for stage in explain:
        if reasons := selection.reports[stage].explain(RETRY_REJECTED):
            log.warning("%s: %s", stage, reasons)
    splits = sorted({row.split for row in selection.rows})
    check_output(out, config.shards, splits)
    fingerprint = _fingerprint(planner, selection.rows)
    selection.statistics["fingerprint"] = fingerprint
    complete = remove_outdated(out, splits, fingerprint)
    _write_splits(planner, ledger, selection, out, fingerprint, complete)
    text = json.dumps(selection.statistics, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    write_atomic(out.folder / STATISTICS_NAME, text.encode())
    out.publish(STATISTICS_NAME)
    return selection.statistics


def _manifest_settings(planner: CallPlanner, fingerprint: str) -> dict[str, Any]:
    config = planner.config
    return {
        SETTINGS_KEY: {
            "fingerprint": fingerprint,
            "filter_version": FILTER_VERSION,
            "variant": config.variant,
            "filter": config.rule,
            "min_right_share": config.min_right_share,
            "val_share": config.val_share,
            "split_seed": config.split_seed,
            "models": {stage: _model_settings(planner, stage) for stage in config.stages},
        },
        "input": planner.shards.fingerprint,
    }


def _select(planner: CallPlanner, ledger: LedgerIndex) -> _Selection:
    """Run the filter over all samples."""
    config, shards = planner.config, planner.shards
    count_tokens, unit = token_counter(config.tokenizer)
    splits: dict[str, SplitStatistics] = {}
    reasons: Counter[str] = Counter()
    outcomes: dict[str, Counter[str]] = {stage: Counter() for stage in config.stages}
    certainty: dict[str, CertaintyStatistics] = {}
    missing: Counter[str] = Counter()
    selection = _Selection(reports={stage: CallReport() for stage in config.stages})
    for index in range(len(shards)):
        decided = decide(planner, ledger, index)
        for name, reply in decided.replies.items():
            for one in reply.samples:
                selection.reports[name].add_earlier(one.record)
        if config.merge is not None:
            selection.reports[MERGE].add_earlier(decided.merged)
        for name, reply in decided.replies.items():
            if len(reply.samples) > 1 and not reply.missing:
                certainty.setdefault(name, CertaintyStatistics()).add(reply)
        reasons[decided.reason] += 1
        for stage, outcome in decided.outcomes.items():
            outcomes[stage][outcome] += 1
            missing[stage] += outcome == MISSING
        split, trace = decided.split, decided.trace
        dropped = selection.dropped.setdefault(split, Counter())
        if trace is None:
            dropped[decided.reason] += 1
            continue
        letter = answer_body(trace) or trace
        splits.setdefault(split, SplitStatistics()).add(shards.record(index), trace, letter, count_tokens)
        texts = json.dumps([_teacher_texts(decided.replies), _certainty(decided.replies)], sort_keys=True)
        digest = hashlib.sha256(texts.encode()).hexdigest()
        selection.rows.append(Row(index, decided.sample.id, split, trace, digest))
    _check_missing(config, missing, selection.reports)
    if not selection.rows:
        raise ValueError(
            f"no trace is kept of {len(shards)} samples: {_counts(reasons)}{_explained(selection.reports)}"
        )
    _check_empty_splits(planner, selection)
    selection.rows.sort(key=lambda row: row.sample_id)
    selection.statistics = {
        "variant": config.variant,
        "unit": unit,
        "considered": len(shards),
        "splits": {name: splits[name].summary() for name in sorted(splits)},
        "yield": dict(sorted(reasons.items())),
        **({"certainty": {name: found.summary() for name, found in certainty.items()}} if certainty else {}),
        "outcomes": {stage: dict(sorted(counts.items())) for stage, counts in outcomes.items()},
    }
    return selection


def _check_missing(config: TracesConfig, missing: Counter[str], reports: dict[str, CallReport]) -> None:
    missing_calls = [f"{missing[stage]} of stage {stage}" for stage in config.stages if missing[stage]]
    if missing_calls and not config.allow_missing:
        raise LedgerError(
            f"{config.ledger}: calls are missing ({', '.join(missing_calls)}); run the stages again, or set "
            f"allow_missing to write the available traces{_explained(reports)}"
        )


def _check_empty_splits(planner: CallPlanner, selection: _Selection) -> None:
    """Refuse a split without a sample: otherwise only fine-tuning would notice, when it looks for the folder."""
    config = planner.config
    kept = Counter(row.split for row in selection.rows)
    for name in ["train", "val"] if config.val_share else list(selection.dropped):
        if kept[name]:
            continue
        if not config.val_share:
            raise ValueError(
                f"split: no trace is kept of the samples of split {name!r} ({_counts(selection.dropped[name])}); set "
                "`split` to make traces for another split alone"
            )
        samples = [planner.shards.metadata(row.index) for row in selection.rows]
        problem = explain_empty_split(name, [sample.source or sample.id for sample in samples], config)
        raise ValueError(f"{problem} (no call is made again)")


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.most_common(5))


def _explained(reports: dict[str, CallReport]) -> str:
    """Why calls failed, by stage, for the end of a message."""
    parts = [f"{stage}: {reasons}" for stage, report in reports.items() if (reasons := report.explain(RETRY_REJECTED))]
    return "".join(f"; {part}" for part in parts)


def _write_splits(
    planner: CallPlanner,
    ledger: LedgerIndex,
    selection: _Selection,
    out: OutputFolder,
    fingerprint: str,
    complete: Collection[str],
) -> None:
    settings = _manifest_settings(planner, fingerprint)
    columns = (TextColumn("{task.description:<6}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("write", total=len(selection.rows))
        for split in sorted({row.split for row in selection.rows}):
            rows = [row for row in selection.rows if row.split == split]
            if split in complete:
                progress.advance(task, len(rows))
                continue
            summaries = _write_shards(planner, ledger, rows, out, split, lambda: progress.advance(task))
            remove_extra(out, split, [summary.name for summary in summaries])
            write_manifest(out.folder / split, Manifest(summaries, settings, dict(selection.dropped[split])))
            out.publish(f"{split}/{MANIFEST_NAME}")


def _write_shards(
    planner: CallPlanner,
    ledger: LedgerIndex,
    rows: list[Row],
    out: OutputFolder,
    split: str,
    on_sample: Callable[[], None],
) -> tuple[ShardSummary, ...]:
    (out.folder / split).mkdir(parents=True, exist_ok=True)
    size = planner.config.samples_per_shard
    summaries: list[ShardSummary] = []
    for begin in range(0, len(rows), size):
        name = shard_name(split, len(summaries))
        with OpenShard(out.folder / name) as shard:
            for row in rows[begin : begin + size]:
                sample, replies = planner.teacher_replies(row.index, ledger)
                shard.write(
                    replace(
                        sample,
                        split=split,
                        trace=row.trace,
                        teacher_traces=_teacher_texts(replies),
                        extra=sample.extra | _certainty(replies),
                    ),
                    planner.shards.media(row.index),
                )
                on_sample()
        assert shard.summary is not None
        out.publish(name, shard.summary.sha256)
        summaries.append(shard.summary)
    return tuple(summaries)


def _teacher_texts(replies: dict[str, TeacherReply]) -> dict[str, str]:
    """The whole reply that represents each teacher, as received, by name."""
    return {name: reply.record.reply for name, reply in replies.items() if reply.record is not None}


def _certainty(replies: dict[str, TeacherReply]) -> dict[str, Any]:
    """How sure and how right each teacher with several replies is, for `Sample.extra`; empty without one."""
    found = {
        name: {"samples": len(reply.samples), "agreement": reply.agreement, "right_share": reply.right_share}
        for name, reply in replies.items()
        if len(reply.samples) > 1
    }
    return {CERTAINTY_KEY: found} if found else {}


def _fingerprint(planner: CallPlanner, rows: list[Row]) -> str:
    """SHA-256 of everything that determines the output's bytes."""
    config = planner.config
    rule = [config.variant, config.rule, config.min_right_share, config.max_target_chars]
    settings = [FILTER_VERSION, *rule, config.val_share, config.split_seed, config.samples_per_shard]
    head = [planner.shards.fingerprint, settings, {stage: _model_settings(planner, stage) for stage in config.stages}]
    digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    for row in rows:
        digest.update(json.dumps([row.sample_id, row.split, row.trace, row.texts_sha256], ensure_ascii=False).encode())
    return digest.hexdigest()


def _model_settings(planner: CallPlanner, stage: str) -> dict[str, Any]:
    model = planner.models[stage]
    prompt = hashlib.sha256(planner.prompts[stage].encode()).hexdigest()
    return {"model": model.name, "revision": model.revision, "sampling": dict(model.sampling), "prompt_sha256": prompt}
