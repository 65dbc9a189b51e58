"""From ledger and input shards to the shards that fine-tuning reads: a pure function, equal input gives equal bytes."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from avrt.answers import answer_body
from avrt.atomic import PARTIAL_SUFFIX, write_atomic
from avrt.manifest import MANIFEST_NAME, Manifest, ShardSummary, read_manifest, write_manifest
from avrt.shard_writer import OpenShard
from avrt.traces.config import STAGES, Stage, TracesConfig
from avrt.traces.ledger import LedgerError, LedgerIndex
from avrt.traces.planning import TEACHERS, Planner, TeacherReply
from avrt.traces.statistics import SplitStatistics
from avrt.traces.tokens import token_counter
from avrt.traces.variants import MISSING, judge

STATISTICS_NAME = "statistics.json"
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


def finalise(planner: Planner) -> dict[str, Any]:
    """Filter, write shards, manifest and ``statistics.json`` to the config's `output`.

    Samples are sorted by id, media bytes are copied as they stand in the input shards, and nothing that differs
    between two runs (time, order, latency, attempts) is written. A finished output of the same content is left alone.

    Returns:
        The statistics, as saved.

    Raises:
        ValueError: calls are missing and `allow_missing` is off, nothing is left after the filter, or `output` holds
            something else.
        OSError: the disk is full or failing; no partial shard is visible.
    """
    config = planner.config
    out = Path(config.output)
    _check_output(out)
    ledger = LedgerIndex(config.ledger)
    rows, statistics = _decide(planner, ledger)
    fingerprint = _fingerprint(planner, rows)
    statistics["fingerprint"] = fingerprint
    settings = {
        "traces": {
            "fingerprint": fingerprint,
            "filter_version": FILTER_VERSION,
            "variant": config.variant,
            "val_share": config.val_share,
            "split_seed": config.split_seed,
            "models": {stage: _model_settings(planner, stage) for stage in STAGES},
        },
        "input": planner.shards.fingerprint,
    }
    left_out = {reason: count for reason, count in statistics["yield"].items() if reason != "kept"}
    if not _is_finished(out, fingerprint):
        _write_shards(planner, ledger, rows, out, settings, left_out)
    text = json.dumps(statistics, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    write_atomic(out / STATISTICS_NAME, text.encode())
    return statistics


def split_of(source: str, seed: int, val_share: float) -> str:
    """``train`` or ``val``, the same for all questions about a clip, on every machine."""
    digest = hashlib.sha256(f"{seed}:{source}".encode()).digest()
    return "val" if int.from_bytes(digest[:8], "big") < val_share * 2**64 else "train"


def _decide(planner: Planner, ledger: LedgerIndex) -> tuple[list[Row], dict[str, Any]]:
    """Judge every sample: the rows to write, sorted by id, and the statistics."""
    config, shards = planner.config, planner.shards
    count_tokens, unit = token_counter(config.tokenizer)
    splits: dict[str, SplitStatistics] = {}
    reasons: Counter[str] = Counter()
    outcomes: dict[Stage, Counter[str]] = {stage: Counter() for stage in STAGES}
    missing: Counter[Stage] = Counter()
    rows: list[Row] = []
    for index in range(len(shards)):
        record = shards.record(index)
        sample, replies = planner.teacher_replies(index, ledger)
        merge = planner.merge_call(index, sample, replies)
        verdict = judge(sample, replies, ledger.get(merge.key) if merge else None, config.variant)
        reasons[verdict.reason] += 1
        for stage, outcome in verdict.outcomes.items():
            outcomes[stage][outcome] += 1
            missing[stage] += outcome == MISSING
        if verdict.trace is None:
            continue
        split = sample.split
        if config.val_share is not None:
            split = split_of(sample.source or sample.id, config.split_seed, config.val_share)
        letter = answer_body(verdict.trace) or verdict.trace
        splits.setdefault(split, SplitStatistics()).add(record, verdict.trace, letter, count_tokens)
        texts = json.dumps(_teacher_texts(replies), sort_keys=True)
        rows.append(Row(index, sample.id, split, verdict.trace, hashlib.sha256(texts.encode()).hexdigest()))
    _refuse_missing(config, missing)
    if not rows:
        raise ValueError(f"no trace is left of {len(shards)} samples: {dict(reasons.most_common(5))}")
    statistics = {
        "variant": config.variant,
        "unit": unit,
        "considered": len(shards),
        "splits": {name: splits[name].summary() for name in sorted(splits)},
        "yield": dict(sorted(reasons.items())),
        "outcomes": {stage: dict(sorted(counts.items())) for stage, counts in outcomes.items()},
    }
    return sorted(rows, key=lambda row: row.sample_id), statistics


def _refuse_missing(config: TracesConfig, missing: Counter[Stage]) -> None:
    lacking = [f"{missing[stage]} of stage {stage}" for stage in STAGES if missing[stage]]
    if lacking and not config.allow_missing:
        raise LedgerError(
            f"{config.ledger}: calls are missing ({', '.join(lacking)}); run the stages again, or set allow_missing "
            "to write the traces that there are"
        )


def _write_shards(
    planner: Planner,
    ledger: LedgerIndex,
    rows: list[Row],
    out: Path,
    settings: dict[str, Any],
    left_out: dict[str, int],
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    # The manifest goes first and comes last: a folder without one is an unfinished set.
    (out / MANIFEST_NAME).unlink(missing_ok=True)
    for path in [*out.glob("traces-*.tar"), *out.glob(f"traces-*.tar{PARTIAL_SUFFIX}")]:
        path.unlink()
    size = planner.config.samples_per_shard
    summaries: list[ShardSummary] = []
    columns = (TextColumn("{task.description:<6}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("write", total=len(rows))
        for begin in range(0, len(rows), size):
            with OpenShard(out / f"traces-{len(summaries):06d}.tar") as shard:
                for row in rows[begin : begin + size]:
                    sample, replies = planner.teacher_replies(row.index, ledger)
                    shard.write(
                        replace(sample, split=row.split, trace=row.trace, teacher_traces=_teacher_texts(replies)),
                        planner.shards.media(row.index),
                    )
                    progress.advance(task)
            assert shard.summary is not None
            summaries.append(shard.summary)
    write_manifest(out, Manifest(tuple(summaries), settings, left_out))


def _teacher_texts(replies: dict[Stage, TeacherReply]) -> dict[str, str]:
    """Each teacher's whole reply as it came, by stage name."""
    records = {stage: replies[stage].record for stage in TEACHERS}
    return {str(stage): record.reply for stage, record in records.items() if record is not None}


def _check_output(out: Path) -> None:
    if (out / MANIFEST_NAME).exists() and "traces" not in read_manifest(out).settings:
        raise ValueError(f"output: {out} holds shards that are no traces; choose another folder")


def _is_finished(out: Path, fingerprint: str) -> bool:
    if not (out / MANIFEST_NAME).exists():
        return False
    manifest = read_manifest(out)
    if manifest.settings["traces"].get("fingerprint") != fingerprint:
        return False
    sizes = {path.name: path.stat().st_size for path in out.glob("*.tar")}
    return all(sizes.get(shard.name) == shard.bytes for shard in manifest.shards)


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
