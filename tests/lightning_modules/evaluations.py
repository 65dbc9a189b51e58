"""Starting evaluations as a user does, from a shipped config, and reading what they left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from avrt.cli import main
from avrt.evaluation.records.log import read_records, record_files
from avrt.evaluation.records.record import Record
from tests.programs import environment

CONFIG = Path(__file__).resolve().parents[2] / "cli_configs" / "eval_demo.yaml"


def train_student(run: Path, student: Path, questions: Path) -> None:
    """A short training into `run`: ``student`` (exported) and ``checkpoints``. It answers in tags, right or wrong."""
    settings = {
        "trainer.max_steps": 30,
        "trainer.enable_progress_bar": "false",
        "output_dir": run,
        "model.init_args.student.path": student,
        "model.init_args.optimizer.learning_rate": 5e-3,
        "model.init_args.optimizer.warmup_steps": 5,
        "data.init_args.train": questions,
        "data.init_args.val": "null",
        "data.init_args.batch_size": 8,
        "data.init_args.num_workers": 0,
    }
    words = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    assert main(["fit", "--config", str(CONFIG.parent / "sft_tiny.yaml"), *words]) == 0


def arguments(run: Path, student: Path, settings: dict[str, Any]) -> list[str]:
    """The words after ``python -m avrt``; keys without a section are the data module's."""
    values: dict[str, Any] = {
        "trainer.callbacks": "[]",
        "trainer.enable_progress_bar": "false",
        "model.init_args.student.path": student,
        "model.init_args.name": "evaluation",  # the same in every folder: numbers are compared byte by byte
        "num_workers": 0,
        "batch_size": 2,
    } | settings
    words = ["--config", str(values.pop("config"))] if "config" in values else []
    for key, value in values.items():
        words += [f"--{key if '.' in key else f'data.init_args.{key}'}", "null" if value is None else str(value)]
    return ["test", "--config", str(CONFIG), "--output_dir", str(run), *words]


def evaluate(run: Path, student: Path, **settings: Any) -> int:
    """Run in this process; returns the exit status. Dots in keys are written as double underscores."""
    return main(arguments(run, student, _dotted(settings)))


def popen(run: Path, student: Path, **settings: Any) -> subprocess.Popen[str]:
    """Start in processes of its own, all in one process group."""
    run.parent.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "avrt", *arguments(run, student, _dotted(settings))],
        cwd=run.parent,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run_to_end(run: Path, student: Path, **settings: Any) -> str:
    """Run in processes of its own; returns what they printed."""
    process = popen(run, student, **settings)
    try:
        output = process.communicate(timeout=300)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise AssertionError(f"the run hung:\n{process.communicate()[0][-6000:]}") from None
    assert process.returncode == 0, output[-5000:]
    return output


def kill_when(run: Path, student: Path, benchmark: str, records: int, timeout: float = 240, **settings: Any) -> int:
    """Kill a run, with all of its processes, as soon as `records` are on disk; returns how many are then."""
    process = popen(run, student, **settings)
    deadline = time.monotonic() + timeout
    while lines(run / benchmark) < records and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    output = process.communicate()[0]
    assert process.returncode == -signal.SIGKILL, output[-5000:]
    assert time.monotonic() < deadline, f"the run was too slow:\n{output[-5000:]}"
    return lines(run / benchmark)


def lines(folder: Path) -> int:
    """Complete lines in all processes' files."""
    return sum(path.read_bytes().count(b"\n") for path in record_files(folder)) if folder.is_dir() else 0


def logged_ids(folder: Path) -> list[str]:
    """The ids of all lines that the processes wrote, in any order, also those written twice."""
    paths = sorted(folder.glob("records.rank*.jsonl"))
    return [json.loads(line)["id"] for path in paths for line in path.read_text().splitlines()]


def replies(folder: Path) -> list[Record]:
    """All records without the time that they took."""
    return [replace(record, latency_seconds=None) for record in read_records(folder)]


def _dotted(settings: dict[str, Any]) -> dict[str, Any]:
    return {key.replace("__", "."): value for key, value in settings.items()}
