"""Real signals to real runs: saved at the next optimizer step, a status of its own, and resumed to the bit."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from avrt.callbacks.preemption import EXIT_STATUS, PreemptionCallback
from avrt.checkpoints import complete_checkpoints
from tests.distributed.runs import Assets, Run, make_assets, wait

CALLBACKS = [
    {"class_path": "avrt.callbacks.preemption.PreemptionCallback"},
    {"class_path": "avrt.callbacks.checkpoint.RunCheckpoint", "init_args": {"every_n_steps": 1000}},
]
STEPS = 400
"""More than a run takes before its signal comes."""


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Assets:
    return make_assets(tmp_path_factory.mktemp("assets"))


def wait_for_steps(run: Run, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 200
    path = run.folder / "steps_0.jsonl"
    while not path.exists() or len(path.read_text().splitlines()) < count:
        assert process.poll() is None, wait(process)
        assert time.monotonic() < deadline, "the run does not get going"
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in listed]


def alive(pid: int) -> bool:
    """Whether a process still runs; one that has ended may wait for its parent to notice."""
    status = Path(f"/proc/{pid}/status")
    try:
        return "State:\tZ" not in status.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def trainers(process: subprocess.Popen[str]) -> list[int]:
    """The processes that train: the one started, and those that it started for the other devices."""
    others = [c for c in children(process.pid) if b"run_" in Path(f"/proc/{c}/cmdline").read_bytes()]
    return [process.pid, *others]


@pytest.mark.parametrize(
    ("devices", "strategy", "number", "rank"),
    [(1, "plain", signal.SIGTERM, 0), (2, "deepspeed", signal.SIGUSR1, 1)],
    ids=["SIGTERM to one process", "SIGUSR1 to the second of two"],
)
def test_saved_and_resumed(
    assets: Assets, tmp_path: Path, devices: int, strategy: str, number: signal.Signals, rank: int
) -> None:
    settings: dict[str, Any] = {"devices": devices, "strategy": strategy, "accumulate": 2, "callbacks": CALLBACKS}
    run = Run(tmp_path / "run", assets, steps=STEPS, overrides={"trainer.max_epochs": 500}, **settings)
    run.folder.mkdir()
    status = tmp_path / "status"
    process = run.popen(AVRT_STATUS_DIR=str(status))
    wait_for_steps(run, 3, process)
    pids = trainers(process)
    assert len(pids) == devices
    before = len(run.steps_of())
    os.kill(pids[rank], number)
    output = wait(process)
    assert process.returncode == EXIT_STATUS, output
    assert not any(alive(pid) for pid in pids)

    (checkpoint,) = complete_checkpoints(run.folder / "checkpoints")
    step = int(checkpoint.stem.removeprefix("step="))
    assert before <= step <= before + 4  # the signal came during the step after those seen, or while they were written
    assert f"saved {checkpoint}" in output
    assert (status / "preempted").read_text().strip() == str(checkpoint)

    replace(run, steps=step + 5).start("--ckpt_path", "last")
    assert [s["step"] for s in run.steps_of()] == list(range(1, step + 6))  # no step's metrics are lost
    if devices == 1:  # for more, tests/distributed/test_resume.py compares
        whole = Run(tmp_path / "whole", assets, steps=step + 5, overrides={"trainer.max_epochs": 500}, **settings)
        whole.start()
        assert run.losses() == whole.losses()


def test_a_killed_process_ends_the_run(assets: Assets, tmp_path: Path) -> None:
    run = Run(tmp_path / "run", assets, steps=STEPS, devices=2, strategy="deepspeed", batch_size=2)
    run = replace(run, overrides={"trainer.max_epochs": 500})
    process = run.popen()
    wait_for_steps(run, 2, process)
    pids = trainers(process)
    os.kill(pids[1], signal.SIGKILL)
    wait(process, timeout=60)
    assert process.returncode != 0
    assert not any(alive(pid) for pid in pids)


@pytest.mark.slow
def test_a_hanging_process_ends_the_run(assets: Assets, tmp_path: Path) -> None:
    overrides = {"trainer.max_epochs": 500, "trainer.strategy.init_args.timeout_minutes": 0.5}
    run = Run(tmp_path / "run", assets, steps=STEPS, devices=2, strategy="deepspeed", batch_size=2, overrides=overrides)
    process = run.popen()
    wait_for_steps(run, 2, process)
    pids = trainers(process)
    os.kill(pids[1], signal.SIGSTOP)
    try:
        wait(process, timeout=120)
    finally:
        if alive(pids[1]):
            os.kill(pids[1], signal.SIGKILL)
    assert process.returncode != 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"signals": ["SIGNO"]}, "'SIGNO' is no signal"), ({"exit_status": 0}, "exit_status must be 1 to 125, is 0")],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PreemptionCallback(**arguments)
