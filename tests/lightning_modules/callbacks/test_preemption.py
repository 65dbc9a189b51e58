"""Real signals to real runs: saved at the next optimizer step, a status of its own, and resumed to the bit."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback

from avrt.model.checkpoints import complete_checkpoints
from lightning_modules.callbacks.preemption import EXIT_STATUS, PreemptionCallback
from tests.distributed.runs import Assets, Run, make_assets
from tests.programs import ForkServer, Program

CALLBACKS = [
    {"class_path": "lightning_modules.callbacks.PreemptionCallback"},
    {"class_path": "lightning_modules.callbacks.RunCheckpoint", "init_args": {"every_n_steps": 1000}},
]
STEPS = 400
"""More than a run takes before its signal comes."""


class SlowPhase(Callback):
    """Makes one optimizer step, or the first validation, last a while; writes a file when it begins."""

    def __init__(self, phase: str, seconds: float, file: str) -> None:
        self.phase, self.seconds, self.file = phase, seconds, Path(file)

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if self.phase == "step" and trainer.global_step == 3:
            self._last()

    def on_validation_batch_start(self, *_: Any) -> None:
        if self.phase == "validation":
            self._last()

    def _last(self) -> None:
        if not self.file.exists():
            self.file.touch()
            time.sleep(self.seconds)


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Assets:
    return make_assets(tmp_path_factory.mktemp("assets"))


def wait_for_step(run: Run, step: int, program: Program) -> None:
    deadline = time.monotonic() + 200
    while not (run.folder / "steps_0.jsonl").exists() or len(run.steps_of()) < step:
        assert program.poll() is None, program.output
        assert time.monotonic() < deadline, "the run does not get going"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    """Whether a process still runs; one that has ended may wait for its parent to notice."""
    status = Path(f"/proc/{pid}/status")
    try:
        return "State:\tZ" not in status.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def trainers(program: Program) -> list[int]:
    """The processes that train: the one started, and those that it started for the other devices."""
    children = [int(pid) for pid in Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text().split()]
    others = [pid for pid in children if b"run_" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return [program.pid, *others]


def all_end(pids: list[int]) -> bool:
    """The first process does not wait for the end of the others."""
    deadline = time.monotonic() + 60
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(alive(pid) for pid in pids)


def preempt(run: Run, program: Program, number: signal.Signals, rank: int, status: Path) -> int:
    """Signal one process of a run once it has taken three steps; returns the step that it saved itself at."""
    wait_for_step(run, 3, program)
    pids = trainers(program)
    assert len(pids) == run.devices
    before = len(run.steps_of())
    os.kill(pids[rank], number)
    output = program.wait()
    assert program.returncode == EXIT_STATUS, output
    assert all_end(pids)

    (checkpoint,) = complete_checkpoints(run.folder / "checkpoints")
    step = int(checkpoint.stem.removeprefix("step="))
    assert before <= step <= before + 4  # the signal came during the step after those seen, or while they were written
    assert f"saved {checkpoint}" in output
    assert (status / "preempted").read_text().strip() == str(checkpoint)
    return step


def complete_steps(run: Run, steps: int) -> bool:
    return [s["step"] for s in run.steps_of()] == list(range(1, steps + 1))


def finish(server: ForkServer, run: Run, *arguments: str) -> None:
    program = run.begin(server, *arguments)
    output = program.wait()
    assert program.returncode == 0, output[-6000:]


def test_saved_and_resumed(fork_server: ForkServer, assets: Assets, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"accumulate": 2, "callbacks": CALLBACKS, "overrides": {"trainer.max_epochs": 500}}
    run = Run(tmp_path / "run", assets, steps=STEPS, **settings)
    program = run.begin(fork_server, AVRT_STATUS_DIR=str(tmp_path / "status"))
    step = preempt(run, program, signal.SIGTERM, 0, tmp_path / "status")
    finish(fork_server, replace(run, steps=step + 5), "--ckpt_path", "last")
    assert complete_steps(run, step + 5)  # no step's metrics are lost
    whole = Run(tmp_path / "whole", assets, steps=step + 5, **settings)
    finish(fork_server, whole)
    assert run.losses() == whole.losses()


@pytest.mark.parametrize("phase", ["step", "validation"])
def test_data_workers_outlive_the_signal(fork_server: ForkServer, assets: Assets, tmp_path: Path, phase: str) -> None:
    """A scheduler signals all processes of a job, again and again; the phase takes seconds longer than all signals."""
    begun = tmp_path / "begun"
    arguments = {"phase": phase, "seconds": 6.0, "file": str(begun)}
    slow = {"class_path": f"{__name__}.SlowPhase", "init_args": arguments}
    overrides = {
        "trainer.max_epochs": 500,
        "trainer.limit_val_batches": 2,
        "trainer.val_check_interval": 4,
        "trainer.check_val_every_n_epoch": None,
        "data.init_args.num_workers": 2,
        "data.init_args.val": str(assets.val),
        "data.init_args.val_batch_size": 2,
        "model.init_args.val_max_completion_length": 4,
    }
    run = Run(tmp_path / "run", assets, steps=STEPS, overrides=overrides, callbacks=[*CALLBACKS, slow])
    program = run.begin(fork_server)
    deadline = time.monotonic() + 200
    while not begun.exists():
        assert program.poll() is None, program.output
        assert time.monotonic() < deadline, "the run does not get going"
        time.sleep(0.05)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGTERM):
        os.killpg(program.pid, number)
        time.sleep(0.3)
    output = program.wait()
    assert program.returncode == EXIT_STATUS, output[-6000:]
    (checkpoint,) = complete_checkpoints(run.folder / "checkpoints", "step=*.ckpt")  # beside best.ckpt
    assert f"saved {checkpoint}" in output
    finish(fork_server, replace(run, steps=7), "--ckpt_path", "last")
    assert complete_steps(run, 7)


def test_two_processes(fork_server: ForkServer, assets: Assets, tmp_path: Path) -> None:
    """One is asked to stop: both save and end. Going on, one is killed: the other ends too.

    That both resume exactly is tested in tests/distributed/test_resume.py.
    """
    settings: dict[str, Any] = {"devices": 2, "strategy": "deepspeed", "accumulate": 2, "callbacks": CALLBACKS}
    run = Run(tmp_path / "run", assets, steps=STEPS, overrides={"trainer.max_epochs": 500}, **settings)
    program = run.begin(fork_server, AVRT_STATUS_DIR=str(tmp_path / "status"))
    step = preempt(run, program, signal.SIGUSR1, 1, tmp_path / "status")

    program = run.begin(fork_server, "--ckpt_path", "last")
    wait_for_step(run, step + 2, program)
    pids = trainers(program)
    os.kill(pids[1], signal.SIGKILL)
    program.wait(timeout=60)
    assert program.returncode != 0
    assert all_end(pids)
    assert complete_steps(run, len(run.steps_of()))  # no step's metrics are lost


@pytest.mark.slow
def test_a_hanging_process_ends_the_run(fork_server: ForkServer, assets: Assets, tmp_path: Path) -> None:
    overrides = {"trainer.max_epochs": 500, "trainer.strategy.init_args.timeout_minutes": 0.5}
    run = Run(tmp_path / "run", assets, steps=STEPS, devices=2, strategy="deepspeed", batch_size=2, overrides=overrides)
    program = run.begin(fork_server)
    wait_for_step(run, 2, program)
    pids = trainers(program)
    os.kill(pids[1], signal.SIGSTOP)
    try:
        program.wait(timeout=120)
    finally:
        if alive(pids[1]):
            os.kill(pids[1], signal.SIGKILL)
    assert program.returncode != 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"signals": ["SIGNO"]}, "'SIGNO' is not a signal"), ({"exit_status": 0}, "exit_status must be 1 to 125, got 0")],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PreemptionCallback(**arguments)
