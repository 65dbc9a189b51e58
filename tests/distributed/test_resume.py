"""Stopped and resumed under DeepSpeed: as if it had never stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from avrt.model.checkpoints import complete_checkpoints, load_without_code, what_is_damaged
from tests.distributed.conftest import STOPS
from tests.distributed.runs import Assets, Run
from tests.programs import ForkServer


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


def test_the_newest_are_kept_over_any_number_of_resumes(
    fork_server: ForkServer, assets: Assets, tmp_path: Path
) -> None:
    """Folders of DeepSpeed too; and one that is incomplete is passed over, and goes in the end."""
    saver = {"class_path": "lightning_modules.callbacks.RunCheckpoint", "init_args": {"every_n_steps": 1, "keep": 2}}
    run = Run(tmp_path / "run", assets, strategy="deepspeed", batch_size=2, callbacks=[saver])
    folder = run.folder / "checkpoints"
    listed = []
    for steps in (1, 2, 4):
        program = replace(run, steps=steps).begin(fork_server, "--ckpt_path", "last")
        output = program.wait()
        assert program.returncode == 0, output[-4000:]
        listed.append([int(path.stem[5:]) for path in complete_checkpoints(folder)])
    assert listed == [[1], [1, 2], [3, 4]]
    (folder / "step=0000004.ckpt" / "complete.json").unlink()
    program = replace(run, steps=6).begin(fork_server, "--ckpt_path", "last")
    output = program.wait()
    assert program.returncode == 0, output[-4000:]
    (line,) = [line for line in output.splitlines() if "skipped" in line]
    assert "step=0000004.ckpt" in line
    assert [step["step"] for step in run.steps_of()] == [1, 2, 3, 4, 4, 5, 6]
    assert {path.name for path in folder.iterdir()} == {"step=0000005.ckpt", "step=0000006.ckpt"}


def test_every_file_of_a_folder_is_checked(fork_server: ForkServer, assets: Assets, tmp_path: Path) -> None:
    """One bit of each file of a real checkpoint of two processes, which then resume from the one before it."""
    saver = {"class_path": "lightning_modules.callbacks.RunCheckpoint", "init_args": {"every_n_steps": 1, "keep": 2}}
    run = Run(tmp_path / "run", assets, strategy="deepspeed", batch_size=2, callbacks=[saver], devices=2, steps=2)
    program = run.begin(fork_server)
    output = program.wait()
    assert program.returncode == 0, output[-4000:]
    newest = run.folder / "checkpoints" / "step=0000002.ckpt"
    files = sorted(file for file in newest.rglob("*") if file.is_file())
    assert len([file for file in files if "optim_states" in file.name]) == 2
    for file in files:
        data = file.read_bytes()
        for bit in (0, len(data) * 4, len(data) * 8 - 1):
            changed = bytearray(data)
            changed[bit // 8] ^= 1 << bit % 8
            file.write_bytes(changed)
            assert file.name in str(what_is_damaged(newest)), (file, bit)
        file.write_bytes(data)
    assert what_is_damaged(newest) is None
    changed = bytearray(data := files[-2].read_bytes())
    changed[len(data) // 2] ^= 8
    files[-2].write_bytes(changed)
    program = replace(run, steps=3).begin(fork_server, "--ckpt_path", "last")
    output = program.wait()
    assert program.returncode == 0, output[-4000:]
    (line,) = [line for line in output.splitlines() if "skipped" in line]
    assert files[-2].name in line
    assert [step["step"] for step in run.steps_of()] == [1, 2, 2, 3]
