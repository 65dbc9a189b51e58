"""The scripts forward a signal, and distinguish a run that saved itself from one that failed.

There is no Slurm here: programs of the same names replace `srun` and `scontrol`. torchrun is the real one. The run's
reaction to the signal is tested in tests/lightning_modules/callbacks/test_preemption.py.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from avrt.model.checkpoints import complete_checkpoints
from tests.distributed.runs import Run, free_port, make_assets
from tests.programs import environment

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"

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
    slurm = {"SLURM_JOB_ID": "17", "SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "4"}
    variables = {"PATH": f"{folder}/bin:{os.environ['PATH']}"} | slurm
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
    assert "--config a.yaml --config cli_configs/overlays/slurm.yaml --config b.yaml" in words
    assert "--trainer.num_nodes 2 --trainer.devices 4 --ckpt_path last" in words
    assert not list(folder.glob(".slurm-status*"))


@pytest.mark.parametrize("status", [0, 1, 3])
def test_not_queued_again_otherwise(folder: Path, status: int) -> None:
    (folder / "status").write_text(str(status))
    (folder / ".slurm-status-17").mkdir()  # left by an earlier start of the same job
    (folder / ".slurm-status-17" / "preempted").touch()
    assert start(folder, "a.yaml").wait(timeout=30) == status
    assert not (folder / "scontrol.txt").exists()


@pytest.mark.parametrize(
    ("script", "usage"), [("slurm.sh", "CONFIG"), ("torchrun.sh", "FIRST_MACHINE MACHINES THIS_MACHINE CONFIG")]
)
def test_prints_its_usage(script: str, usage: str) -> None:
    done = subprocess.run(["bash", str(SCRIPTS / script)], capture_output=True, text=True)
    assert done.returncode == 2
    assert f"scripts/{script} {usage} [more config files]" in done.stderr


UV = f"""#!/usr/bin/env bash
shift 2  # run --no-sync
exec {sys.executable} -m torch.distributed.run "${{@:2}}"
"""


@pytest.mark.slow
@pytest.mark.parametrize("target", ["script", "torchrun", "trainer"])
def test_torchrun_saves_and_resumes(tmp_path: Path, target: str) -> None:
    """Two real processes under a real torchrun; whichever gets the signal, the run saves itself, and resumes later."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "uv").write_text(UV)
    (bin_folder / "uv").chmod(0o755)
    run = Run(tmp_path / "run", make_assets(tmp_path / "assets"), strategy="deepspeed", devices=2, steps=400)
    _, _, config = run.words()
    # The overlay adds the callback that saves; `num_nodes` and `devices` come from the script.
    settings = yaml.safe_load(Path(config).read_text())
    settings["trainer"] |= {"max_epochs": 500, "enable_checkpointing": True}
    settings["trainer"]["callbacks"].append({"class_path": "lightning_modules.callbacks.RunCheckpoint"})
    Path(config).write_text(yaml.safe_dump(settings))
    variables = environment() | {
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "GPUS": "2",
        "MASTER_PORT": str(free_port()),
        "AVRT_ALLOWED_CLASS_PREFIXES": "tests",
    }
    (run.folder / "cli_configs").symlink_to(SCRIPTS.parent / "cli_configs")

    def begin() -> subprocess.Popen[bytes]:
        command = ["bash", str(SCRIPTS / "torchrun.sh"), "127.0.0.1", "1", "0", config]
        output = (run.folder / "output.txt").open("ab")
        return subprocess.Popen(
            command, cwd=run.folder, env=variables, stdout=output, stderr=output, start_new_session=True
        )

    done = 0
    for _ in range(2):  # the second time from the checkpoint
        process = begin()
        try:
            deadline = time.monotonic() + 240
            while len(run.steps_of()) < done + 3 if (run.folder / "steps_0.jsonl").exists() else True:
                assert process.poll() is None, (run.folder / "output.txt").read_text()[-6000:]
                assert time.monotonic() < deadline
                time.sleep(0.1)
            (agent,) = children(process.pid)
            os.kill({"script": process.pid, "torchrun": agent, "trainer": children(agent)[-1]}[target], signal.SIGTERM)
            assert process.wait(timeout=120) == 85, (run.folder / "output.txt").read_text()[-6000:]
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        (checkpoint,) = complete_checkpoints(run.folder / "checkpoints")[-1:]
        assert int(checkpoint.stem.removeprefix("step=")) >= done + 3
        done = len(run.steps_of())
    assert [step["step"] for step in run.steps_of()] == list(range(1, done + 1))


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
