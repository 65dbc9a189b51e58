"""A full disk when a checkpoint is due: one clear line, no partial file, and the run resumes later."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from avrt.model.checkpoints import complete_checkpoints
from tests.distributed.runs import Assets, Run
from tests.programs import ForkServer

CHECKPOINTS = {"class_path": "lightning_modules.callbacks.RunCheckpoint", "init_args": {"every_n_steps": 1}}
FULL = {"class_path": "tests.distributed.runs.NoRoom", "init_args": {"step": 2, "bytes": 200_000}}


@pytest.mark.parametrize("strategy", ["plain", "deepspeed"])
def test_no_room_for_a_checkpoint(fork_server: ForkServer, assets: Assets, tmp_path: Path, strategy: str) -> None:
    settings: dict[str, Any] = {"strategy": strategy, "steps": 4}
    run = Run(tmp_path / "run", assets, callbacks=[FULL, CHECKPOINTS], **settings)
    program = run.begin(fork_server)
    output = program.wait()
    assert program.returncode == 1
    folder = run.folder / "checkpoints"
    (line,) = [line for line in output.splitlines() if line.startswith("avrt: error: ")]
    assert f"{folder}/step=0000003.ckpt" in line
    assert "File too large" in line
    assert "Traceback" not in output
    assert sorted(path.name for path in folder.iterdir()) == ["step=0000001.ckpt", "step=0000002.ckpt"]
    assert len(complete_checkpoints(folder)) == 2

    program = replace(run, callbacks=[CHECKPOINTS]).begin(fork_server, "--ckpt_path", "last")
    output = program.wait()
    assert program.returncode == 0, output[-6000:]
    assert "Restored all states from the checkpoint at" in output
    assert sorted({int(step["step"]) for step in run.steps_of()}) == [1, 2, 3, 4]
