"""The metrics of a step's rewards and completions, against TRL's own numbers and by hand."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from avrt.grpo.loss import LossConfig
from avrt.rewards import RewardCallback
from avrt.rollout.window_rollout import Rollout, stream_seed
from lightning_modules.grpo import GRPOModule
from tests.lightning_modules.training import VowelReward, fit, grpo_data, grpo_module, optimizer
from tests.parity.trl_oracle import trl_advantages

DECOUPLED = "normalize_then_sum"


class Sometimes(RewardCallback):
    """Does not apply to completions that begin with some letters."""

    name = "sometimes"

    def score(self, completions: Any) -> list[float]:
        return [math.nan if len(c.text) % 3 == 0 else len(c.text) / 7 for c in completions]


class KeepRollouts(Callback):
    def __init__(self) -> None:
        self.rollouts: list[Rollout] = []

    def on_train_batch_end(self, trainer: Any, module: GRPOModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch.last:
            assert module.rollout is not None
            self.rollouts.append(module.rollout)


@pytest.mark.parametrize(
    "loss", [LossConfig(), LossConfig(scale_rewards="none"), LossConfig(multi_objective_aggregation=DECOUPLED)], ids=str
)
@pytest.mark.parametrize("alone", [True, False])
def test_reward_metrics_are_trls(student_folder: Path, shards: Path, loss: LossConfig, alone: bool) -> None:
    """With a reward that does not always apply, and alone so that some completions cannot be scored at all."""
    kept = KeepRollouts()
    module = grpo_module(student_folder, loss=asdict(loss), num_generations=4)
    rewards = [Sometimes()] if alone else [VowelReward(weight=2.0), Sometimes(weight=0.5)]
    run = fit(module, grpo_data(shards, batch_size=2), kept, *rewards, max_steps=2)
    unscorable = 0
    for rollout, logged in zip(kept.rollouts, run.logged, strict=True):
        table = torch.stack(list(rollout.rewards.by_name.values()), dim=1)
        unscorable += int(table.isnan().all(dim=1).sum())
        weights = torch.tensor([reward.weight for reward in rewards])
        if loss.multi_objective_aggregation == DECOUPLED:  # in float32, TRL turns rounding into advantages up to 1e-3
            table, weights = table.double(), weights.double()
        advantages, theirs = trl_advantages(table, 4, loss.scale_rewards, weights, loss.multi_objective_aggregation)
        torch.testing.assert_close(rollout.statistics.advantages, advantages.float(), rtol=0, atol=1e-5)
        assert logged["reward"] == pytest.approx(theirs["reward"], abs=1e-6)
        assert logged["reward_std"] == pytest.approx(theirs["reward_std"], abs=1e-6)
        if loss.multi_objective_aggregation != DECOUPLED:  # TRL then logs whether the whole batch has no deviation
            # TRL's deviation of fewer than two scored responses is NaN, which it does not count as no deviation.
            few = (rollout.rewards.total.view(-1, 4).isfinite().sum(dim=1) < 2).double().mean().item()
            # In float32, TRL takes the rounded mean of equal rewards for a deviation.
            _, exact = trl_advantages(table.double(), 4, loss.scale_rewards, weights.double())
            assert logged["frac_reward_zero_std"] == pytest.approx(exact["frac_reward_zero_std"] + few, abs=1e-6)
        assert sum(logged[f"advantage_share/{name}"] for name in rollout.rewards.by_name) == pytest.approx(1, abs=1e-6)
        for i, name in enumerate(rollout.rewards.by_name):
            assert logged[f"rewards/{name}/mean"] == pytest.approx(theirs[f"rewards/reward{i}/mean"], abs=1e-6)
            assert logged[f"rewards/{name}/std"] == pytest.approx(theirs[f"rewards/reward{i}/std"], abs=1e-6)
    assert (unscorable > 0) is alone


def test_completion_metrics_by_hand(student_folder: Path, shards: Path) -> None:
    kept = KeepRollouts()
    module = grpo_module(student_folder, sampling={"max_completion_length": 40})
    run = fit(module, grpo_data(shards, batch_size=2), kept, max_steps=2)
    seen = 0
    for rollout, logged in zip(kept.rollouts, run.logged, strict=True):
        lengths = [len(c.token_ids) for c in rollout.completions]
        ended = [len(c.token_ids) for c in rollout.completions if c.finish_reason == "stop"]
        assert logged["completions/mean_length"] == pytest.approx(sum(lengths) / len(lengths))
        assert (logged["completions/min_length"], logged["completions/max_length"]) == (min(lengths), max(lengths))
        assert logged["completions/clipped_ratio"] == pytest.approx(1 - len(ended) / len(lengths))
        if ended:
            assert logged["completions/mean_terminated_length"] == pytest.approx(sum(ended) / len(ended))
        seen += sum(lengths) + 3 * sum(len(prompt) for prompt in rollout.prompts)
        assert logged["num_tokens"] == seen
        assert all(c.finish_reason == "length" for c in rollout.completions if len(c.token_ids) == 40)
        reasons = {name: value for name, value in logged.items() if name.startswith("answers/")}
        assert sum(reasons.values()) == pytest.approx(1)


def test_fields_names_are_all_there(student_folder: Path, shards: Path) -> None:
    run = fit(grpo_module(student_folder), grpo_data(shards), max_steps=1)
    field = """loss grad_norm learning_rate num_tokens reward reward_std frac_reward_zero_std rewards/vowels/mean
    rewards/vowels/std completions/mean_length completions/min_length completions/max_length completions/clipped_ratio
    completions/mean_terminated_length kl entropy clip_ratio/low_mean clip_ratio/high_mean clip_ratio/region_mean
    seconds/rollout seconds/rewards seconds/reference seconds/training"""
    assert set(field.split()) <= run.logged[0].keys()
    assert all(math.isfinite(value) for value in run.logged[0].values())


def test_learning_rate_is_the_steps_own(student_folder: Path, shards: Path) -> None:
    """Warm-up over two steps to 1e-2, then linear to 0 at step 4."""
    schedule = optimizer(warmup_steps=2, schedule="linear", total_steps=4)
    run = fit(grpo_module(student_folder, optimizer=schedule), grpo_data(shards), max_steps=4)
    assert [logged["learning_rate"] for logged in run.logged] == pytest.approx([0.0, 5e-3, 1e-2, 5e-3])


@pytest.mark.parametrize(
    "length",
    [
        {"max_steps": 99, "max_epochs": 2, "limit_train_batches": 2},
        {"max_steps": 99, "max_epochs": 1, "limit_train_batches": 0.9},
        {"max_steps": 4, "max_epochs": 99},
        {"max_steps": -1, "max_epochs": 4, "limit_train_batches": 1},
    ],
    ids=str,
)
def test_the_schedule_ends_with_the_run(student_folder: Path, shards: Path, length: dict[str, Any]) -> None:
    """The shards hold five steps; whatever ends the run after four of them ends the schedule as well."""
    schedule = optimizer(warmup_steps=2, schedule="linear")
    single = {"accumulate_grad_batches": 1}
    run = fit(grpo_module(student_folder, optimizer=schedule), grpo_data(shards, batch_size=2), **single, **length)
    assert [logged["learning_rate"] for logged in run.logged] == pytest.approx([0.0, 5e-3, 1e-2, 5e-3])


def test_stream_seeds() -> None:
    seeds = {stream_seed(s, e, i) for s in range(3) for e in range(3) for i in ("a", "b", "ab")}
    assert len(seeds) == 27
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_no_reward_is_refused(student_folder: Path, shards: Path) -> None:
    from lightning.pytorch import Trainer

    trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, max_steps=1
    )
    with pytest.raises(ValueError, match=r"trainer\.callbacks lists no reward"):
        trainer.fit(grpo_module(student_folder), grpo_data(shards))


def test_a_schedule_without_an_end_is_refused(student_folder: Path, shards: Path) -> None:
    with pytest.raises(ValueError, match=r"trainer\.max_steps"):
        fit(grpo_module(student_folder), grpo_data(shards), max_steps=-1, max_epochs=-1)
