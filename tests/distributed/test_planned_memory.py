"""A plan's memory of weights, optimizer and reference against the tensors of real runs."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from avrt.config.class_paths import ALLOWED_PREFIXES, enforce
from avrt.planning.plan import make_plan
from avrt.planning.settings import read_settings
from tests.distributed.runs import Run
from tests.tiny_student import SIZES


def planned(run: Run, monkeypatch: pytest.MonkeyPatch) -> int:
    """Bytes between two steps in one process, where host and device are one."""
    monkeypatch.setenv("AVRT_ALLOWED_CLASS_PREFIXES", "tests")
    plan = make_plan(read_settings([str(run.folder / f"run_{run.steps}.yaml")]), overhead_gib=0.0)
    enforce(ALLOWED_PREFIXES)
    device, host = plan.device, plan.host
    on_device = device.weights + device.optimizer + device.reference + device.transfer_buffer
    return on_device + (host.optimizer + host.gradient_sums + host.staging) // run.devices


@pytest.mark.parametrize("size", list(SIZES))
def test_between_two_steps(one_process: Mapping[str, Run], size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = one_process[size]
    assert planned(run, monkeypatch) == pytest.approx(int((run.folder / "tensor_bytes.txt").read_text()), rel=0.1)


def test_offloaded(two_processes: Mapping[str, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    run = two_processes["offloaded middle"]
    assert planned(run, monkeypatch) == pytest.approx(int((run.folder / "tensor_bytes.txt").read_text()), rel=0.1)
