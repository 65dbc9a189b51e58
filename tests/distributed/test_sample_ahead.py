"""Sampling one window ahead on several devices, and an engine that fails on one of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed.runs import Assets, Run
from tests.programs import ForkServer

SAVER = {"class_path": "lightning_modules.callbacks.RunCheckpoint", "init_args": {"every_n_steps": 1, "keep": -1}}


def ahead(folder: Path, assets: Assets, engine: dict[str, Any] | None = None, **settings: Any) -> Run:
    overrides = {
        "model.init_args.rollout": {
            "class_path": "tests.lightning_modules.own_weights.OwnWeights",
            "init_args": {"ahead": True, **(engine or {})},
        },
        "model.init_args.sample_ahead": True,
        "model.init_args.sampling_correction": {"mode": "token_truncate"},
        "model.init_args.optimizer.learning_rate": 0.01,
    }
    run = Run(folder, assets, task="grpo", batch_size=2, devices=2, steps=4, callbacks=[SAVER], overrides=overrides)
    return replace(run, **settings)


def done(server: ForkServer, run: Run, *arguments: str) -> Run:
    program = run.begin(server, *arguments)
    output = program.wait()
    assert program.returncode == 0, output[-4000:]
    return run


@pytest.mark.parametrize("strategy", ["plain", "deepspeed"])
def test_resumed(fork_server: ForkServer, assets: Assets, tmp_path: Path, strategy: str) -> None:
    """What every device has sampled ahead is in the checkpoint."""
    whole = done(fork_server, ahead(tmp_path / "whole", assets, strategy=strategy))
    stopped = ahead(tmp_path / "stopped", assets, strategy=strategy)
    done(fork_server, stopped)
    checkpoint = stopped.folder / "checkpoints" / "step=0000002.ckpt"
    again = done(fork_server, replace(stopped, folder=tmp_path / "again"), "--ckpt_path", str(checkpoint))
    staleness = [step["sampling/staleness/mean"] for step in whole.steps_of()]
    assert staleness == [0, 1, 1, 1]
    assert again.steps_of() == whole.steps_of()[2:]
    weights, others = whole.weights(), again.weights()
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_two_devices_learn_what_one_does(fork_server: ForkServer, assets: Assets, tmp_path: Path) -> None:
    two = done(fork_server, ahead(tmp_path / "two", assets))
    one = done(fork_server, ahead(tmp_path / "one", assets, devices=1, batch_size=4))
    for ours, theirs in zip(two.steps_of(), one.steps_of(), strict=True):
        for name in ("reward", "grad_norm", "sampling/sampling_logp_difference/mean", "sampling/staleness/mean"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-6), name


@pytest.mark.parametrize(("rank", "samples_ahead"), [(0, False), (1, True)])
def test_a_failure_on_one_device_ends_the_run_everywhere(
    fork_server: ForkServer, assets: Assets, tmp_path: Path, rank: int, samples_ahead: bool
) -> None:
    saver = {"class_path": SAVER["class_path"], "init_args": {"every_n_steps": 50}}
    run = ahead(tmp_path / "run", assets, {"fails_at": 2, "fails_on": rank}, callbacks=[saver], strategy="deepspeed")
    if not samples_ahead:
        run.overrides["model.init_args.sample_ahead"] = False
    program = run.begin(fork_server)
    output = program.wait()
    assert program.returncode == 1, output[-4000:]
    (line,) = {line for line in output.splitlines() if line.startswith("avrt: error: ")}
    assert "the engine is gone. Step 2 is saved as" in line
    run.overrides["model.init_args.rollout"]["init_args"] = {"ahead": True}
    done(fork_server, run, "--ckpt_path", "last")
    assert [step["step"] for step in run.steps_of()] == [1, 2, 3, 4]
