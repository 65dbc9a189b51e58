"""A device whose attention is wrong ends the run on all devices."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.distributed.runs import Assets, Run
from tests.programs import ForkServer


@pytest.mark.parametrize("rank", [0, 1])
def test_one_faulty_device_ends_the_run_everywhere(
    fork_server: ForkServer, assets: Assets, tmp_path: Path, rank: int
) -> None:
    callbacks = [{"class_path": "tests.distributed.faulty_mask.FaultyMask", "init_args": {"rank": rank}}]
    callbacks.append({"class_path": "tests.distributed.runs.RewardByFirstLetter"})
    run = Run(tmp_path / "run", assets, task="grpo", devices=2, batch_size=2, steps=3, callbacks=callbacks)
    program = run.begin(fork_server)
    output = program.wait()
    assert program.returncode == 1, output[-4000:]
    (line,) = {line for line in output.splitlines() if line.startswith("avrt: error: ")}
    assert "self check: " in line
    assert "model.student.attention_kernel" in line
    assert not list(run.folder.glob("steps_*.jsonl"))
