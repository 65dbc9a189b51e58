"""A run that hangs ends by itself: the rank and its phase are named, and every process ends with an error."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from avrt.rewards import RewardCallback
from lightning_modules.callbacks.rank_states import RankState, hanging, judge
from tests.distributed.runs import Assets, Run, make_assets
from tests.lightning_modules.callbacks.test_preemption import alive, all_end, trainers, wait_for_step
from tests.programs import REPOSITORY, ForkServer, environment

WATCHDOG = {"class_path": "lightning_modules.callbacks.Watchdog", "init_args": {"timeout_minutes": 0.15}}
STEPS = 400


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Assets:
    return make_assets(tmp_path_factory.mktemp("assets"))


class HangingReward(RewardCallback):
    """Never returns on one rank, from the third optimizer step on."""

    name = "hanging"

    def __init__(self, rank: int) -> None:
        super().__init__(weight=0.0)
        self.rank = rank
        self.calls = 0

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.hangs = trainer.global_rank == self.rank

    def score(self, completions: Any) -> list[float]:
        self.calls += 1
        while self.hangs and self.calls > 2:
            time.sleep(0.1)
        return [0.0 for _ in completions]


def hanging_run(folder: Path, assets: Assets, **settings: Any) -> Run:
    reward = {"class_path": f"{__name__}.HangingReward", "init_args": {"rank": settings["devices"] - 1}}
    callbacks = [reward, WATCHDOG, {"class_path": "lightning_modules.callbacks.PreemptionCallback"}]
    return Run(folder, assets, task="grpo", steps=STEPS, batch_size=2, callbacks=callbacks, **settings)


def test_one_process(fork_server: ForkServer, assets: Assets, tmp_path: Path) -> None:
    run = hanging_run(tmp_path / "run", assets, devices=1)
    output = run.begin(fork_server).wait()
    status = int((run.folder / "output.status").read_text())
    assert status == 1, output
    (line,) = [line for line in output.splitlines() if line.startswith("avrt: error: ")]
    assert "no progress for 0.15 minutes: rank 0 (pid " in line
    assert "hangs in phase 'rewards' of step 2" in line
    assert "in score" in output  # the stack


@pytest.mark.parametrize("strategy", [pytest.param("plain", marks=pytest.mark.slow), "deepspeed"])
def test_the_rank_that_hangs_is_named(fork_server: ForkServer, assets: Assets, tmp_path: Path, strategy: str) -> None:
    """The other rank waits for it in the same phase."""
    run = hanging_run(tmp_path / "run", assets, devices=2, strategy=strategy)
    program = run.begin(fork_server)
    wait_for_step(run, 1, program)  # the second step is written when the third ends
    pids = trainers(program)
    output = program.wait()
    assert program.returncode != 0
    assert all_end(pids)
    lines = {line for line in output.splitlines() if "no progress" in line}
    assert lines
    for line in lines:
        assert f"rank 1 (pid {pids[1]} on " in line
        assert "hangs in phase 'rewards' of step 2; waiting in phase 'rewards': rank 0" in line


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_stopped_process(fork_server: ForkServer, assets: Assets, tmp_path: Path, rank: int) -> None:
    """It cannot end itself; the store is in the process of rank 0."""
    run = Run(
        tmp_path / "run", assets, steps=STEPS, devices=2, strategy="deepspeed", batch_size=2, callbacks=[WATCHDOG],
        overrides={"trainer.max_epochs": 500},
    )  # fmt: skip
    program = run.begin(fork_server)
    wait_for_step(run, 2, program)
    pids = trainers(program)
    os.kill(pids[rank], signal.SIGSTOP)
    try:
        if rank == 1:
            program.wait(timeout=120)
            assert program.returncode not in (0, None)
            assert all_end(pids)
        else:
            assert all_end(pids[1:])  # a launcher that started rank 0 ends it
        assert f"rank {rank} (pid {pids[rank]} on " in program.output
        assert "has not reported" in program.output
    finally:
        for pid in filter(alive, pids):
            os.kill(pid, signal.SIGKILL)


def state(rank: int, number: int, waits: bool = False, phase: str = "training") -> RankState:
    return RankState(rank, "host", 100 + rank, 7, phase, number, waits)


@pytest.mark.parametrize(
    ("states", "silent", "expected"),
    [
        ([state(0, 9, waits=True), state(1, 9)], (), {1}),  # the same phase: only one of them works
        ([state(0, 9), state(1, 7), state(2, 9, waits=True)], (), {1}),  # the one behind
        ([state(0, 9, waits=True), state(1, 8, waits=True)], (), {1}),  # in different collectives
        ([state(0, 9), state(1, 9)], (1,), {1}),
        ([state(0, 9)], (), {0}),
    ],
)
def test_which_rank_hangs(states: list[RankState], silent: tuple[int, ...], expected: set[int]) -> None:
    assert hanging({s.rank: s for s in states}, set(silent)) == expected


WAITING = """
import os, sys, threading, time
import torch.distributed as dist
from lightning_modules.callbacks.rank_states import waits_for_others

def wait(): dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=0, world_size=2)
def work(): time.sleep(100)

found = []
for target in (wait, work):
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    time.sleep(2)
    found.append(waits_for_others(thread.ident))
print(found, flush=True)
os._exit(0)
"""


def test_a_rank_that_waits_in_torch_is_told_from_one_that_works(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WAITING, str(tmp_path / "ranks")]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=200)
    assert done.stdout.split("\n")[-2] == "[True, False]", done.stderr


def test_the_line() -> None:
    states = {s.rank: s for s in (state(0, 9, True, "rewards"), state(1, 8, False, "rollout"), state(2, 9, True))}
    found = judge(states, set(), 25.0)
    assert found.ranks == [1]
    assert found.line == (
        "no progress for 25 minutes: rank 1 (pid 101 on host) hangs in phase 'rollout' of step 7; "
        "waiting in phase 'rewards': rank 0; waiting in phase 'training': rank 2"
    )
    silent = judge({0: states[0]}, {1}, 25.0)
    assert "rank 1 has never reported; waiting in phase 'rewards': rank 0" in silent.line


UNHEARD = """
import io, sys, threading, time
from types import SimpleNamespace
from lightning_modules.callbacks.rank_states import RankStates, own_state
from lightning_modules.callbacks.watchdog import Watchdog

class Broken(io.StringIO):
    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")

sys.stderr = Broken()
states = RankStates(own_state(0), 1, 0.05)
threading.Thread(target=Watchdog()._watch, args=(states, threading.Event(), 0.2, 0.05), daemon=True).start()
time.sleep(60)
"""


def test_the_run_ends_although_nobody_reads_its_errors() -> None:
    done = subprocess.run([sys.executable, "-c", UNHEARD], cwd=REPOSITORY, env=environment(), timeout=200)
    assert done.returncode == 1


ATTEMPTS = """
import os, sys, time
from torch.distributed import TCPStore
from lightning_modules.callbacks.rank_states import Conclusion, RankStates, own_state

store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(store.port))
found = []
for attempt in "01":
    os.environ["TORCHELASTIC_RESTART_COUNT"] = attempt
    seen = []
    first, second = (RankStates(own_state(rank), 2, 0.05, seen.append) for rank in (0, 1))
    if attempt == "0":
        first.conclusion = Conclusion("hangs", [0])
    time.sleep(2)
    first.stop(), second.stop()
    found.append(bool(seen))
print(found, flush=True)
os._exit(0)
"""


def test_a_restarted_run_is_not_ended_by_the_attempt_before() -> None:
    """The key-value store of torchrun outlives a restart."""
    command = [sys.executable, "-c", ATTEMPTS]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=200)
    assert done.stdout.split("\n")[-2] == "[True, False]", done.stderr
