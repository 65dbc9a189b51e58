"""Real runs with one step out of line: it is reported with the sample that caused it, and ends the run if asked to."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from lightning_modules.callbacks import SpikeReport
from lightning_modules.callbacks.spikes import MIN_STEPS, is_spike
from lightning_modules.step_metrics import FinishedStep, SampleValues
from tests.lightning_modules.training import fit, grpo_data, grpo_module, optimizer, sft_data, sft_module, write_shards

STEP = MIN_STEPS + 2
STILL = optimizer(learning_rate=1e-12)
"""Steps differ by their samples alone."""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards"))


class Spoil(Callback):
    """Replaces the second prompt of one optimizer step."""

    def __init__(self, change: Callable[[Any], Any], step: int = STEP, until: int = STEP) -> None:
        self.change, self.step, self.until = change, step, until
        self.ids: list[str] = []

    def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        if self.step <= trainer.global_step <= self.until and batch.first:
            prompts = batch.window.prompts
            prompts[1] = self.change(prompts[1])
            self.ids = [prompt.sample.id for prompt in prompts]


def rare_tokens(prompt: Any) -> Any:
    """A trace of twenty times its length, of tokens of which the student has never seen one."""
    return replace(prompt, target=torch.arange(5, 40).repeat(20 * len(prompt.target) // 35 + 1))


def test_the_sample_is_named(student_folder: Path, shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil = Spoil(rare_tokens)
    fit(sft_module(student_folder, optimizer=STILL), sft_data(shards), spoil, SpikeReport(), max_steps=STEP + 3)
    lines = [line for line in capsys.readouterr().out.splitlines() if "spike of" in line]
    (length,) = [line for line in lines if "completions/mean_length" in line]
    assert length.startswith(f"step {STEP + 1}: ")
    named = length.partition("their completions/mean_length: ")[2]
    assert named.startswith(f"{spoil.ids[1]} (")
    assert spoil.ids[0] in named
    assert all(line.startswith(f"step {STEP + 1}: ") for line in lines)


def test_nothing_to_report(student_folder: Path, shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = SpikeReport({"loss": 10.0, "kl": 10.0, "gradnorm": 10.0})
    fit(grpo_module(student_folder, optimizer=STILL), grpo_data(shards), report, max_steps=STEP + 3)
    printed = capsys.readouterr().out
    assert "spike of" not in printed
    assert printed.count("thresholds has 'gradnorm', and no curve is called so") == 1


class ScaledLoss(Callback):
    """Multiplies the loss, and so the gradient, from one step on."""

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        share = module.share_of_step
        module.share_of_step = lambda loss: share(loss * (1000.0 if trainer.global_step >= STEP else 1.0))


def test_spikes_in_a_row_end_the_run(student_folder: Path, shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = SpikeReport(thresholds={"grad_norm": 10.0}, patience=3)
    with pytest.raises(ValueError, match=rf"step {STEP + 3}: 3 optimizer steps in a row .*grad_norm.*SpikeReport"):
        fit(sft_module(student_folder, optimizer=STILL), sft_data(shards), ScaledLoss(), report, max_steps=60)
    lines = [line for line in capsys.readouterr().out.splitlines() if "spike of grad_norm" in line]
    assert len(lines) == 3
    assert "its samples, with their loss: " in lines[0]


def test_a_resumed_run_compares_with_the_steps_before(tmp_path: Path) -> None:
    report, resumed = SpikeReport(), SpikeReport()
    module = Recording()
    for number in range(30):
        report.on_optimizer_step_end(module, step(number, loss=1.0 + number % 3))
    resumed.load_state_dict(report.state_dict())
    resumed.on_optimizer_step_end(module, step(30, loss=50.0))
    (line,) = module.lines
    assert line == (
        "step 30: spike of loss: 50, and the median of the last 30 steps is 2; its samples, with their loss: "
        "b (99), a (1)"
    )


class Recording:
    """The part of a module that the callback uses; two devices."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def gather_texts(self, texts: Any) -> list[str]:
        return [*texts, '[99.0, ["b"]]']

    def print(self, line: str) -> None:
        self.lines.append(line)


def step(number: int, **values: float) -> FinishedStep:
    return FinishedStep(number, values, [SampleValues(["a"], {"loss": 1.0})])


def test_the_rule() -> None:
    """Numbers worked by hand: median 3, absolute deviations 2, 1, 0, 1, 97, their median 1: 10 * 1.4826."""
    recent = [1.0, 2.0, 3.0, 4.0, 100.0]
    assert not is_spike(3.0 + 14.8, recent, 10)
    assert is_spike(3.0 + 14.9, recent, 10)
    assert is_spike(3.0 - 14.9, recent, 10)
    assert not is_spike(7.9, [4.0] * 20, 10)  # hardly moving: a tenth of the median counts
    assert is_spike(8.1, [4.0] * 20, 10)
    assert not is_spike(0.009, [0.0] * 20, 10)  # and 0.001 if that is 0
    assert is_spike(0.011, [0.0] * 20, 10)


def test_noise_is_no_spike() -> None:
    """10,000 values each of usual noise: normal, log-normal as gradient norms are, and a trend."""
    dice = random.Random(0)
    series = {
        "normal": [dice.gauss(0, 1) for _ in range(10_000)],
        "log-normal": [math.exp(dice.gauss(0, 0.4)) for _ in range(10_000)],
        "trend": [i + dice.gauss(0, 1) for i in range(10_000)],
    }
    for values in series.values():
        assert sum(is_spike(values[i], values[i - 100 : i], 10) for i in range(100, 10_000, 5)) <= 2


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="window must be at least 20, got 5"):
        SpikeReport(window=5)
