"""Gradients of an optimizer step summed over micro-batches and ranks, by real DeepSpeed runs in bfloat16.

The truth is the sum, in float64, of the gradients that autograd has given for each micro-batch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.conftest import ARGUMENTS, BF16
from tests.distributed.runs import Assets, Run, run_all
from tests.programs import ForkServer

STEPS = 3
POISONED = 1
FLOAT32 = 8 * 2.0**-24
"""Rounding of eight additions in float32."""


def runs_of(root: Path, assets: Assets, devices: int, accumulate: int) -> dict[str, Run]:
    poison = {"class_path": "tests.distributed.runs.PoisonLoss", "init_args": {"step": POISONED, "rank": devices - 1}}
    runs: dict[str, Run] = {}
    for name, dtype, offload in (("fp32", "fp32", True), ("bf16", "bf16", True), ("on device", "fp32", False)):
        folder = root / name
        recorder = {
            "class_path": "tests.distributed.gradient_recorder.GradientSums",
            "init_args": {"folder": str(folder)},
        }
        strategy = {f"{ARGUMENTS}.offload_optimizer": offload, f"{ARGUMENTS}.grad_accum_dtype": dtype}
        no_clipping = {"trainer.gradient_clip_val": 1e9}
        runs[name] = Run(
            folder,
            assets,
            strategy="deepspeed",
            devices=devices,
            accumulate=accumulate,
            steps=STEPS,
            overrides=BF16 | strategy | no_clipping,
            callbacks=[poison, recorder],
        )
    return runs


@pytest.fixture(scope="module")
def alone(fork_server: ForkServer, assets: Assets, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Run]:
    runs = runs_of(tmp_path_factory.mktemp("alone"), assets, 1, 8)
    run_all(fork_server, list(runs.values()))
    return runs


@pytest.fixture(scope="module")
def together(fork_server: ForkServer, assets: Assets, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Run]:
    runs = runs_of(tmp_path_factory.mktemp("together"), assets, 2, 4)
    run_all(fork_server, list(runs.values()), 2)
    return runs


def lines(run: Run, rank: int = 0) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run.folder / f"sums_{rank}.jsonl").read_text().splitlines()]
    assert [line["micro_batches"] for line in found] == [run.accumulate] * STEPS
    assert [line["skipped"] for line in found] == [step == POISONED for step in range(STEPS)]
    return [line for line in found if not line["skipped"]]


@pytest.mark.parametrize("name", ["fp32", "on device"])
@pytest.mark.parametrize("devices", ["alone", "together"])
def test_sums_in_float32_are_exact(request: pytest.FixtureRequest, devices: str, name: str) -> None:
    """Also in the step after one that was skipped: nothing is left of it."""
    run = request.getfixturevalue(devices)[name]
    for line in lines(run) + lines(run, run.devices - 1):
        assert line["exact"] < FLOAT32
        assert line["rounding"] > 100 * FLOAT32  # what bfloat16 would lose


@pytest.mark.parametrize("devices", ["alone", "together"])
def test_sums_in_bfloat16_are_rounded_after_every_micro_batch(request: pytest.FixtureRequest, devices: str) -> None:
    for line in lines(request.getfixturevalue(devices)["bf16"]):
        assert line["rounded"] == 0
        assert line["exact"] > 100 * FLOAT32


def test_what_crosses_between_device_and_host(alone: Mapping[str, Run]) -> None:
    """Bytes per trained weight of an optimizer step with 8 micro-batches; 2 of each step's are the new weights.

    In bfloat16: the first is written (2), the other seven are read and written (4 each), and the sum is written in
    float32 (4). In float32 only the sum.
    """
    for name, backward in (("fp32", 4), ("bf16", 2 + 7 * 4 + 4), ("on device", 0)):
        for line in lines(alone[name]):
            crossed = {phase: value / line["trained"] for phase, value in line["crossed"].items()}
            expected = {"backward": backward, "step": 0 if name == "on device" else 2}
            assert crossed == pytest.approx(expected, rel=0.01)  # padding of the partition


def test_losses_and_norms_agree(alone: Mapping[str, Run]) -> None:
    """Up to the rounding of bfloat16."""
    fp32, bf16, device = (alone[name].steps_of() for name in ("fp32", "bf16", "on device"))
    for key in ("loss", "grad_norm"):
        for a, b, c in zip(fp32, bf16, device, strict=True):
            if a["step"] != POISONED + 1:
                assert a[key] == pytest.approx(b[key], rel=0.03)
                assert a[key] == pytest.approx(c[key], rel=0.03)
