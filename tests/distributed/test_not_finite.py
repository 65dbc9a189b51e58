"""One process's loss is not a number in one step: no process takes that step, and the run goes on."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch

from tests.distributed.runs import Run


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
