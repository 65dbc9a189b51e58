"""Dynamic sampling in two processes: both draw equally often, and a stopped run resumes bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from tests.distributed.conftest import CHECKPOINTS, resumed
from tests.distributed.runs import Assets, Run, run_all
from tests.programs import ForkServer

MODEL = "model.init_args"


def test_resumed(fork_server: ForkServer, assets: Assets, tmp_path: Path) -> None:
    run = Run(
        tmp_path / "whole",
        assets,
        task="grpo",
        strategy="deepspeed",
        devices=2,
        accumulate=2,
        steps=6,
        overrides={
            f"{MODEL}.dynamic_sampling": {"rewards": ["first"], "max_num_gen_batches": 4},
            f"{MODEL}.num_generations": 3,
            "data.init_args.num_workers": 1,
        },
        callbacks=[{"class_path": "tests.distributed.runs.RewardByFirstLetter"}, *CHECKPOINTS],
    )
    part = replace(run, folder=tmp_path / "part", steps=3)
    run_all(fork_server, [run, part, resumed(part)], 2)
    steps = run.steps_of()
    assert len({step["dynamic_sampling/prompts"] for step in steps}) > 1
    for step in steps:
        assert step["dynamic_sampling/prompts"] in (4, 6, 8, 10, 12, 14, 16)
        assert step["dynamic_sampling/filled_up"] == 0 or step["dynamic_sampling/prompts"] == 16
    assert steps == run.steps_of(1), "both devices log the same"
    assert part.steps_of() == steps
    weights, others = run.weights(), part.weights()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
