"""The shipped presets for GPUs as they are, DeepSpeed, offloaded optimizer and bfloat16 included, and their overlays.

They train a tiny student on CPUs here, in as many processes as there are devices.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from avrt.config.strategies import STRATEGIES
from avrt.model.checkpoints import complete_checkpoints, load_without_code
from tests.distributed.conftest import PRESETS
from tests.distributed.runs import CONFIGS, Run


@pytest.fixture
def run(request: pytest.FixtureRequest, one_process: Mapping[str, Run], two_processes: Mapping[str, Run]) -> Run:
    return (one_process | two_processes)[request.param]  # type: ignore[operator]


@pytest.mark.parametrize("run", list(PRESETS), indirect=True)
def test_takes_an_optimizer_step(run: Run) -> None:
    (step,) = run.steps_of()
    assert math.isfinite(step["loss"])
    assert 0 < step["grad_norm"] < 1000
    assert step["skipped_steps"] == 0
    assert ("val/accuracy" in step) == ("zero3" not in run.folder.name)
    if run.devices == 2:
        assert run.steps_of(1) == [step]
    preset = run.folder.name.split()[0]
    saved = yaml.safe_load((run.folder / "runs" / preset / "config.yaml").read_text())
    assert saved["trainer"]["strategy"] in STRATEGIES
    assert saved["trainer"]["precision"] == "bf16-true"
    folder = run.folder / "runs" / preset / "checkpoints"
    assert (folder / "step=0000001.ckpt") in complete_checkpoints(folder)


@pytest.mark.parametrize("run", ["grpo_7b lora"], indirect=True)
def test_adapters_alone_are_saved(run: Run) -> None:
    (end,) = (run.folder / "runs" / "grpo_7b" / "checkpoints").glob("step=*.ckpt")
    saved = load_without_code(end / "checkpoint" / "mp_rank_00_model_states.pt")["module"]
    assert saved
    assert all("lora_" in name for name in saved)


def test_every_overlay_is_run() -> None:
    """`laptop.yaml` is in tests/config/test_configs.py: it takes DeepSpeed away; `judge.yaml` needs a server and is in
    tests/end_to_end/test_judge_overlay.py; the trackers' are in tests/lightning_modules/test_trackers.py."""
    overlays = {path.stem for path in Path(CONFIGS / "overlays").glob("*.yaml")}
    elsewhere = {"laptop", "judge", "wandb", "mlflow", "trackio"}
    assert {name.split()[1] for name in PRESETS if " " in name} == overlays - elsewhere
