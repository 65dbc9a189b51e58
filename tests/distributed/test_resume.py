"""Stopped and resumed under DeepSpeed: as if it had never stopped."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from avrt.checkpoints import complete_checkpoints, load_without_code
from tests.distributed.conftest import STOPS
from tests.distributed.runs import Run


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("task", ["sft", "grpo"])
def test_bitwise(one_process: Mapping[str, Run], two_processes: Mapping[str, Run], task: str, processes: int) -> None:
    runs = one_process if processes == 1 else two_processes
    whole, stopped = runs[f"{task} whole"], runs[f"{task} resumed"]
    output = (runs["sft plain 4x1" if processes == 1 else "sft plain"].folder / "output_0.txt").read_text()
    checkpoint = f"{stopped.folder}/checkpoints/step={STOPS[processes, task]:07d}.ckpt"
    assert f"Restored all states from the checkpoint at {checkpoint}" in output
    assert [step["step"] for step in stopped.steps_of()] == [1, 2, 3, 4, 5, 6]
    assert stopped.steps_of() == whole.steps_of()  # every metric of every step
    weights, others = whole.weights(), stopped.weights()
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_frozen_weights_are_not_saved(two_processes: Mapping[str, Run]) -> None:
    run = two_processes["sft whole"]
    last = complete_checkpoints(run.folder / "checkpoints")[-1]
    saved = load_without_code(last / "checkpoint" / "mp_rank_00_model_states.pt")["module"]
    assert set(saved) == set(run.weights())
    assert not any("visual" in name or "audio_tower" in name for name in saved)


def test_the_newest_are_kept(two_processes: Mapping[str, Run]) -> None:
    names = [p.name for p in complete_checkpoints(two_processes["sft whole"].folder / "checkpoints")]
    assert names == ["step=0000004.ckpt", "step=0000006.ckpt"]
