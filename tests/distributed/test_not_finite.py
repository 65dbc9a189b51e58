"""One process's loss is not a number in one step: no process takes that step, and the run continues."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from avrt.model.checkpoints import complete_checkpoints
from tests.distributed.runs import Assets, Run
from tests.programs import ForkServer


@pytest.mark.parametrize("strategy", ["plain", "deepspeed", "offload"])
def test_step_is_skipped_everywhere(two_processes: Mapping[str, Run], strategy: str) -> None:
    run = two_processes[f"poisoned {strategy}"]
    steps = run.steps_of()
    assert [math.isfinite(step["grad_norm"]) for step in steps] == [True, False, True, True]
    assert [step["skipped_steps"] for step in steps] == [0, 1, 1, 1]
    assert run.steps_of(0)[2:] == run.steps_of(1)[2:]
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert all(torch.isfinite(weight).all() for weight in run.weights().values())


@pytest.mark.parametrize("strategy", ["plain", "deepspeed", "offload"])
def test_the_samples_are_named(two_processes: Mapping[str, Run], strategy: str) -> None:
    output = (two_processes["sft plain"].folder / "output_0.txt").read_text()
    part = output.split(f"=== poisoned {strategy}\n")[1].split("===")[0]
    (line,) = [line for line in part.splitlines() if "is skipped" in line]
    assert "the loss is not finite on" in line
    # Rank 1 has two of the step's four samples.
    assert line.count("-") == 2 + line.split(": the loss")[0].count("-")


@pytest.mark.parametrize("strategy", [pytest.param("plain", marks=pytest.mark.slow), "deepspeed"])
def test_too_many_in_a_row_end_the_run_everywhere(
    fork_server: ForkServer, assets: Assets, tmp_path: Path, strategy: str
) -> None:
    """One process's loss is never a number again: all end with an error, and nothing is exported."""
    callbacks = [
        {"class_path": "tests.distributed.runs.PoisonLoss", "init_args": {"step": 2, "rank": 1, "from_then_on": True}},
        {"class_path": "lightning_modules.callbacks.RunCheckpoint", "init_args": {"every_n_steps": 1, "keep": 2}},
        {"class_path": "lightning_modules.callbacks.ExportStudent"},
    ]
    limit = {"model.init_args.max_skipped_steps": 4}
    settings = {"devices": 2, "strategy": strategy, "batch_size": 2, "steps": 40, "callbacks": callbacks}
    run = Run(tmp_path / "run", assets, overrides=limit, **settings)
    program = run.begin(fork_server)
    output = program.wait()
    assert program.returncode == 1, output[-4000:]
    (line,) = {line for line in output.splitlines() if line.startswith("avrt: error: ")}
    assert "step 6: 4 optimizer steps in a row" in line
    assert not (run.folder / "student").exists()
    names = [path.name for path in complete_checkpoints(run.folder / "checkpoints")]
    assert names == ["step=0000005.ckpt", "step=0000006.ckpt"]  # with the weights of step 2: finite
