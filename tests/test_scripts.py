"""The Slurm script passes a signal on, and queues the job again exactly when the run has saved itself.

There is no Slurm here: programs of the same names stand in for `srun` and `scontrol`. What the run itself does with the
signal is tested in tests/callbacks/test_preemption.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"

SRUN = """#!/usr/bin/env bash
echo "$*" > srun.txt
trap 'mkdir -p "$AVRT_STATUS_DIR"; touch "$AVRT_STATUS_DIR/preempted"; exit 143' USR1
touch started
[ -e status ] && exit "$(cat status)"
while true; do sleep 0.05; done
"""
SCONTROL = '#!/usr/bin/env bash\necho "$*" > scontrol.txt\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "bin").mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def start(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    variables = {"PATH": f"{folder}/bin:{os.environ['PATH']}", "SLURM_JOB_ID": "17", "SLURM_NNODES": "2"}
    command = ["bash", str(SCRIPTS / "slurm.sh"), *arguments]
    process = subprocess.Popen(command, cwd=folder, env=os.environ | variables)
    deadline = time.monotonic() + 30
    while not (folder / "started").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_queued_again_after_a_signal(folder: Path, number: signal.Signals) -> None:
    process = start(folder, "a.yaml", "b.yaml")
    process.send_signal(number)
    assert process.wait(timeout=30) == 85
    assert (folder / "scontrol.txt").read_text().strip() == "requeue 17"
    words = (folder / "srun.txt").read_text()
    assert "--config a.yaml --config b.yaml --config cli_configs/overlays/slurm.yaml" in words
    assert "--trainer.num_nodes 2 --ckpt_path last" in words
    assert not list(folder.glob(".slurm-status*"))


@pytest.mark.parametrize("status", [0, 1, 3])
def test_not_queued_again_otherwise(folder: Path, status: int) -> None:
    (folder / "status").write_text(str(status))
    (folder / ".slurm-status-17").mkdir()  # of an earlier start of the same job
    (folder / ".slurm-status-17" / "preempted").touch()
    assert start(folder, "a.yaml").wait(timeout=30) == status
    assert not (folder / "scontrol.txt").exists()


def test_torchrun_says_how_it_is_used() -> None:
    done = subprocess.run(["bash", str(SCRIPTS / "torchrun.sh")], capture_output=True, text=True)
    assert done.returncode == 2
    assert "FIRST_MACHINE MACHINES THIS_MACHINE CONFIG" in done.stderr
