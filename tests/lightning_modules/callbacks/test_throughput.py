"""Throughput and times, on a clock that only moves when the test moves it."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

import avrt.rollout.window_rollout
import lightning_modules.sft
from avrt.model.student import Student
from avrt.rollout.builtin import TransformersRollout
from datamodules.streaming import EncodedSamples
from lightning_modules.callbacks import Throughput
from tests.lightning_modules.callbacks.tiny_runs import TextReward, events, grpo, scalars, sft, trainer

READ, EMBED, ROLLOUT, REWARDS, SCORE, BACKWARD, OPTIMIZE, SAVE = 0.5, 1.0, 10.0, 100.0, 1e3, 1e4, 5.0, 1e6
"""Seconds that one call takes."""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Time passes only in these calls, each of which is the real one."""
    clock = SimpleNamespace(now=0.0)
    clock.perf_counter = lambda: clock.now

    def takes(seconds: float, owner: Any, name: str) -> None:
        real: Callable[..., Any] = getattr(owner, name)

        def slow(*args: Any, **kwargs: Any) -> Any:
            result = real(*args, **kwargs)
            clock.now += seconds
            return result

        monkeypatch.setattr(owner, name, slow)

    monkeypatch.setattr("lightning_modules.callbacks.throughput.time", clock)
    monkeypatch.setattr("lightning_modules.step_metrics.time", clock)
    takes(READ, EncodedSamples, "_read")
    takes(EMBED, Student, "embed")
    takes(ROLLOUT, TransformersRollout, "generate")
    takes(REWARDS, avrt.rollout.window_rollout, "start_rewards")
    takes(SCORE, avrt.rollout.window_rollout, "token_logprobs")
    takes(SCORE, lightning_modules.sft, "token_logprobs")
    takes(BACKWARD, torch.Tensor, "backward")
    takes(OPTIMIZE, torch.optim.AdamW, "step")
    takes(SAVE, Trainer, "save_checkpoint")
    return clock


def checkpoint(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder / "checkpoints", every_n_train_steps=1, save_top_k=-1)


def test_grpo_times_and_rates_are_exact(
    tmp_path: Path, student_folder: Path, shards: tuple[Path, Path], clock: SimpleNamespace
) -> None:
    module, data = grpo(student_folder, shards)
    run = trainer(
        tmp_path,
        [Throughput(), TextReward(), checkpoint(tmp_path)],
        max_steps=3,
        enable_checkpointing=True,
        val_check_interval=2,
    )
    run.fit(module, data)
    found = events(tmp_path)
    micro_batches, prompts = 2, 4
    parts = {
        "embedding": EMBED,
        "rollout": ROLLOUT,
        "rewards": REWARDS,
        "reference": micro_batches * SCORE,
        "training": micro_batches * (SCORE + BACKWARD),
    }
    for name, seconds in parts.items():
        assert scalars(found, f"seconds/{name}") == [(step, pytest.approx(seconds)) for step in range(3)], name
    waiting, working = prompts * READ, sum(parts.values()) + OPTIMIZE
    step_seconds = [seconds for _, seconds in scalars(found, "throughput/seconds_per_step")]
    # Every step saves a checkpoint and is followed by validation, neither of which is its time. What is read right
    # after a checkpoint cannot be told from writing it; validation comes in between here, so all reading counts.
    assert step_seconds == pytest.approx([waiting + working] * 3, rel=1e-6)
    waits = [share for _, share in scalars(found, "throughput/data_wait_fraction")]
    assert waits == pytest.approx([waiting / (waiting + working)] * 3, rel=1e-5)
    rates = [rate for _, rate in scalars(found, "throughput/samples_per_second")]
    assert rates == pytest.approx([prompts / (waiting + working)] * 3, rel=1e-5)

    totals = [total for _, total in scalars(found, "num_tokens")]
    grown = [after - before for before, after in zip([0.0, *totals], totals, strict=False)]
    tokens = [rate * (waiting + working) for _, rate in scalars(found, "throughput/tokens_per_second")]
    assert tokens == pytest.approx(grown, rel=1e-5)


def test_passes_over_one_window_each_count_its_tokens(
    tmp_path: Path, student_folder: Path, shards: tuple[Path, Path], clock: SimpleNamespace
) -> None:
    module, data = grpo(student_folder, shards, num_iterations=2)
    trainer(tmp_path, [Throughput(), TextReward()]).fit(module, data)
    found = events(tmp_path)
    seconds = [value for _, value in scalars(found, "throughput/seconds_per_step")]
    rates = [value for _, value in scalars(found, "throughput/tokens_per_second")]
    assert seconds[0] > seconds[1]  # the second pass samples nothing
    assert rates[0] * seconds[0] == pytest.approx(rates[1] * seconds[1], rel=1e-5)
    assert rates[0] * seconds[0] == pytest.approx(scalars(found, "num_tokens")[0][1], rel=1e-5)


def test_sft_times_and_rates_are_exact(
    tmp_path: Path, student_folder: Path, shards: tuple[Path, Path], clock: SimpleNamespace
) -> None:
    module, data = sft(student_folder, shards)
    trainer(tmp_path, [Throughput()]).fit(module, data)
    found = events(tmp_path)
    training, waiting = 2 * (EMBED + SCORE + BACKWARD), 4 * READ
    assert scalars(found, "seconds/training") == [(0, pytest.approx(training)), (1, pytest.approx(training))]
    seconds = training + waiting + OPTIMIZE
    assert [value for _, value in scalars(found, "throughput/seconds_per_step")] == pytest.approx([seconds] * 2)
    totals = [0.0, *(total for _, total in scalars(found, "num_tokens"))]
    tokens = [rate * seconds for _, rate in scalars(found, "throughput/tokens_per_second")]
    assert tokens == pytest.approx([totals[1], totals[2] - totals[1]], rel=1e-5)


def test_memory_on_the_cpu_is_the_largest_the_process_had(
    tmp_path: Path, student_folder: Path, shards: tuple[Path, Path]
) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    module, data = sft(student_folder, shards)
    trainer(tmp_path, [Throughput()], limit_val_batches=0).fit(module, data)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    values = [value for _, value in scalars(events(tmp_path), "throughput/peak_memory_gib")]
    assert before - 1e-4 <= values[0] <= values[1] <= after + 1e-4
