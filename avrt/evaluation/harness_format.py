"""A run in the file formats of EleutherAI's lm-evaluation-harness, for tools that read them.

``results_<date>.json`` holds the aggregated numbers of all tasks, ``samples_<task>_<date>.jsonl`` one line per item.
Tasks are named ``avrt_<benchmark>``; metrics are ``acc`` (strict), ``acc_official`` and ``acc_official_answer`` (the
official rule on the answer's text) under the filter ``none``.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from avrt.evaluation.records.record import Record
from avrt.evaluation.records.run_info import RUN_FILE
from avrt.evaluation.repeats import REPEATS
from avrt.evaluation.scoring import BenchmarkRun
from avrt.evaluation.sent_prompts import prompt_fingerprint, sent_prompt
from avrt.files.atomic import write_atomic

FILTER = "none"
METRICS = {"acc": "strict", "acc_official": "official", "acc_official_answer": "official_answer"}
"""The harness's metric to this project's score."""


def write_harness_files(runs: Sequence[BenchmarkRun], out: str | Path, date: datetime | None = None) -> list[Path]:
    """Write the results file and the samples files of a run.

    Args:
        runs: all benchmarks of one run, scored.
        out: folder, created if absent. As in the harness, a sub-folder is named after the model.
        date: date in the file names, UTC; by default the start of the run. Runs of earlier versions did not record it:
            then the date of their oldest ``run.json``.

    Returns:
        The files written, the results first.

    Raises:
        ValueError: no benchmarks, or benchmarks of several models.
    """
    models = sorted({run.info.model for run in runs})
    if len(models) != 1:
        raise ValueError(f"a results file is of one model, got {', '.join(models) or 'none'}")
    if date is None:
        date = min(map(_started, runs))
    stamp = date.isoformat(timespec="microseconds").replace(":", "-")
    folder = Path(out) / _sanitized(models[0])
    folder.mkdir(parents=True, exist_ok=True)
    samples = {task_name(run): _samples(run) for run in runs}
    paths = [folder / f"results_{stamp}.json"]
    results = _results(runs, samples, date)
    write_atomic(paths[0], (json.dumps(results, indent=2, allow_nan=False) + "\n").encode())
    for task, rows in samples.items():
        paths.append(folder / f"samples_{task}_{stamp}.jsonl")
        write_atomic(paths[-1], "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode())
    return paths


def _started(run: BenchmarkRun) -> datetime:
    try:
        began = datetime.fromisoformat(run.info.started)
    except ValueError:
        began = datetime.fromtimestamp((run.folder / RUN_FILE).stat().st_mtime, UTC)
    return began.astimezone(UTC).replace(tzinfo=None)


def task_name(run: BenchmarkRun) -> str:
    """The harness's task name of a benchmark; masks other than AV and subsets are part of it."""
    parts = ["avrt", run.info.benchmark]
    if run.info.modalities != "AV":
        parts.append(run.info.modalities)
    if run.info.subset:
        parts.append(_sanitized(run.info.subset))
    return "_".join(parts)


def _results(runs: Sequence[BenchmarkRun], samples: dict[str, list[dict[str, Any]]], date: datetime) -> dict[str, Any]:
    tasks = {task_name(run): run for run in runs}
    info = runs[0].info
    system = (info.prompt or {}).get("system") or None
    began = date.replace(tzinfo=UTC).timestamp()
    return {
        "results": {task: _metrics(task, run) for task, run in tasks.items()},
        "group_subtasks": {task: [] for task in tasks},
        "configs": {task: _config(task, run) for task, run in tasks.items()},
        "versions": dict.fromkeys(tasks, 1),
        "n-shot": dict.fromkeys(tasks, 0),
        "higher_is_better": {task: dict.fromkeys(METRICS, True) for task in tasks},
        "n-samples": {task: {"original": run.info.items, "effective": len(run.records)} for task, run in tasks.items()},
        "config": {
            "model": "avrt",
            "model_args": f"pretrained={info.model}",
            "batch_size": None,
            "batch_sizes": [],
            "device": None,
            "use_cache": None,
            "limit": None,
            "bootstrap_iters": 0,
            "gen_kwargs": info.decoding or None,
        },
        "git_hash": None,
        "date": began,
        "task_hashes": {
            task: _hash("".join(row["doc_hash"] + row["prompt_hash"] + row["target_hash"] for row in rows))
            for task, rows in samples.items()
        },
        "model_source": "avrt",
        "model_name": info.model,
        "model_name_sanitized": _sanitized(info.model),
        "system_instruction": system,
        "system_instruction_sha": None if system is None else _hash(system),
        "fewshot_as_multiturn": None,
        "chat_template": None,
        "chat_template_sha": None,
        "avrt_version": info.avrt_version,
    }


def _metrics(task: str, run: BenchmarkRun) -> dict[str, Any]:
    metrics: dict[str, Any] = {"name": task, "alias": task, "sample_len": len(run.records)}
    for name, score in ((name, run.metrics[key]) for name, key in METRICS.items()):
        metrics[f"{name},{FILTER}"] = score["accuracy"]
        metrics[f"{name}_stderr,{FILTER}"] = _standard_error(score["correct"], score["items"])
    return metrics


def _standard_error(correct: int, items: int) -> float | str:
    """The harness's: sample standard deviation over √n; "N/A" where there is none."""
    if items < 2:
        return "N/A"
    p = correct / items
    return math.sqrt(p * (1 - p) / (items - 1))


def _config(task: str, run: BenchmarkRun) -> dict[str, Any]:
    return {
        "task": task,
        "dataset_path": run.info.benchmark,
        "output_type": "generate_until",
        "num_fewshot": 0,
        "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in METRICS],
        "repeats": run.info.decoding.get(REPEATS, 1),
        "should_decontaminate": False,
        "metadata": {
            "version": 1,
            "modalities": run.info.modalities,
            "answer_format": run.info.answer_format,
            "profile": run.info.profile,
            "subset": run.info.subset,
            "dataset_fingerprint": run.info.dataset_fingerprint,
            "prompt_fingerprint": prompt_fingerprint(run.info),
        },
    }


def _samples(run: BenchmarkRun) -> list[dict[str, Any]]:
    """One row per item, with all its replies; those of a curve of thinking budgets are left out."""
    replies: dict[str, list[Record]] = {record.id: [record] for record in run.records}
    for record in run.further:
        if record.thinking_budget is None:
            replies[record.id].append(record)
    return [_sample(record, replies[record.id], run) for record in run.records]


def _sample(record: Record, replies: Sequence[Record], run: BenchmarkRun) -> dict[str, Any]:
    """A row; the scores are those of the first reply, as everywhere."""
    sent = sent_prompt(run.info, record)
    prompt = "" if sent is None else sent.user
    doc = {
        "id": record.id,
        "question": record.question,
        "options": list(record.options),
        "answer": record.gold,
        "categories": record.categories,
        "media": record.media,
    }
    return {
        "doc_id": record.index,
        "doc": doc,
        "target": record.gold,
        "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": run.info.decoding}},
        "resps": [[reply.text for reply in replies]],
        "filtered_resps": [reply.answer or "" for reply in replies],
        "filter": FILTER,
        "metrics": list(METRICS),
        "doc_hash": _hash(json.dumps(doc, indent=2)),
        "prompt_hash": _hash(prompt),
        "target_hash": _hash(record.gold),
        "acc": float(bool(record.correct_strict)),
        "acc_official": _number(record.correct_official),
        "acc_official_answer": _number(record.correct_official_answer),
        "reason": record.reason,
        "error_type": record.error_type,
        "finish_reason": record.finish_reason,
    }


def _number(outcome: bool | None) -> float | None:
    return None if outcome is None else float(outcome)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _sanitized(name: str) -> str:
    return re.sub(r"[\"<>:/|\\?*\[\]\s]+", "__", name) or "model"
