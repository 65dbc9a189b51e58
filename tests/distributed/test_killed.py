"""kill -9 at random moments of a real run that saves itself after every step: it resumes as if nothing had happened."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from avrt.model.checkpoints import complete_checkpoints
from tests.distributed.runs import Assets, Run
from tests.programs import ForkServer

STEPS = 16


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_and_resumed(fork_server: ForkServer, assets: Assets, tmp_path: Path, kills: int) -> None:
    dice = random.Random(0)
    checkpoints = [{"class_path": "lightning_modules.callbacks.RunCheckpoint", "init_args": {"every_n_steps": 1}}]
    settings: dict[str, Any] = {"strategy": "deepspeed", "steps": STEPS, "callbacks": checkpoints}
    run, whole = Run(tmp_path / "run", assets, **settings), Run(tmp_path / "whole", assets, **settings)
    undisturbed = whole.begin(fork_server)
    for _ in range(kills):
        saved = complete_checkpoints(run.folder / "checkpoints")
        program = run.begin(fork_server, "--ckpt_path", "last")
        deadline = time.monotonic() + 200
        while complete_checkpoints(run.folder / "checkpoints") == saved and program.poll() is None:
            assert time.monotonic() < deadline, program.output
            time.sleep(0.01)
        time.sleep(dice.uniform(0.0, 0.3))
        program.kill()
        program.wait(30)
    program = run.begin(fork_server, "--ckpt_path", "last")
    output = program.wait()
    assert program.returncode == 0, output[-6000:]
    undisturbed.wait()
    losses = dict(zip(range(1, STEPS + 1), whole.losses(), strict=True))
    assert all(step["loss"] == losses[step["step"]] for step in run.steps_of())  # those taken twice as well
    assert all(torch.equal(weight, run.weights()[name]) for name, weight in whole.weights().items())
