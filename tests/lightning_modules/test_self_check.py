"""The self check in a run: once at its start, changes nothing, ends a run whose attention is wrong, on all devices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import lightning_modules.grpo
from avrt.model.shared_prompt import PackedLayout
from tests.distributed.faulty_mask import hide_a_key
from tests.lightning_modules.training import StopAfter, fit, grpo_data, grpo_module, weights, write_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    done: list[Any] = []
    compare = lightning_modules.grpo.compare_with_separate_rows
    monkeypatch.setattr(
        lightning_modules.grpo, "compare_with_separate_rows", lambda *a, **k: done.append(compare(*a, **k)) or done[-1]
    )
    return done


def test_once_in_a_run_and_again_in_a_resumed_one(
    student_folder: Path, shards: Path, tmp_path: Path, checks: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "two.ckpt"
    fit(grpo_module(student_folder), grpo_data(shards), StopAfter(2, path), max_steps=3)
    assert len(checks) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("self check: ")]
    assert f"over {checks[0].tokens} tokens" in line
    assert checks[0].passed
    fit(grpo_module(student_folder), grpo_data(shards), max_steps=3, ckpt_path=path)
    assert len(checks) == 2, "a resumed run may be on another device"


def test_it_changes_nothing_and_can_be_switched_off(student_folder: Path, shards: Path, checks: list[Any]) -> None:
    runs = []
    for switch in (True, False):
        module = grpo_module(student_folder, self_check=switch)
        runs.append((fit(module, grpo_data(shards)), weights(module)))
    assert len(checks) == 1
    (a, weights_a), (b, weights_b) = runs
    assert (a.losses, a.tokens) == (b.losses, b.tokens)
    assert all(torch.equal(weights_a[name], weights_b[name]) for name in weights_a)


def test_a_faulty_mask_ends_the_run_before_a_step(
    student_folder: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PackedLayout, "_mask", PackedLayout._mask)  # restored at the end
    hide_a_key()
    module = grpo_module(student_folder)
    with pytest.raises(ValueError, match=r"self check: .*model\.student\.attention_kernel"):
        fit(module, grpo_data(shards))
    assert module.global_step == 0
    assert all(p.grad is None for p in module.student.parameters())
    fit(grpo_module(student_folder, self_check=False), grpo_data(shards))
