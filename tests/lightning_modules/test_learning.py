"""A few steps of GRPO raise the sampled accuracy of a cold start; with a mistake in the advantages they do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean

import pytest
import torch

from avrt.data.writer import ShardWriter
from avrt.grpo.advantage import GroupStatistics, group_advantages
from avrt.rewards import AccuracyReward
from avrt.sample import Sample
from tests.lightning_modules.training import fit, grpo_data, grpo_module, optimizer, sft_data, sft_module
from tests.tiny_student import make_sample

GROUP = 8
STEPS = 20
TRAINED = {"learning_rate": 3e-3, "betas": [0.9, 0.99], "warmup_steps": 5}

Break = Callable[[GroupStatistics], GroupStatistics]

BROKEN: dict[str, Break] = {
    "wrong sign": lambda found: replace(found, advantages=-found.advantages),
    "of other responses of the group": lambda found: replace(
        found, advantages=found.advantages.view(-1, GROUP).roll(1, dims=1).flatten()
    ),
    "of other groups": lambda found: replace(found, advantages=found.advantages.roll(GROUP)),
    "not centered": lambda found: replace(found, advantages=found.advantages - found.advantages.min()),
}


def questions(count: int) -> list[Sample]:
    """Questions of two wordings, one answered by A and one by C; their traces choose any letter."""
    samples = []
    for i in range(count):
        base = make_sample("audio", 2, frames=4, audio_seconds=0.2)  # number 2 has four options
        wording, answer = (("Which thing is seen?", 0), ("Which thing is heard?", 2))[i % 2]
        trace = f"<think>Quiet.</think>\n<answer>{'ABCD'[i // 2 % 4]}</answer>"
        samples.append(replace(base, id=f"question-{i}", question=wording, answer=answer, trace=trace))
    return samples


@pytest.fixture(scope="module")
def learning_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("learning")
    with ShardWriter(folder, image_format="png", samples_per_shard=32) as writer:
        for sample in questions(32):
            writer.write(sample)
    return folder


@pytest.fixture(scope="module")
def cold_start(student_folder: Path, learning_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student that writes the format and guesses the letter."""
    module = sft_module(student_folder, optimizer=optimizer(**TRAINED))
    fit(module, sft_data(learning_shards, batch_size=16), max_steps=100, accumulate_grad_batches=1)
    folder = tmp_path_factory.mktemp("cold") / "student"
    module.student.thinker.save_pretrained(folder)
    module.student.processor.save_pretrained(folder)
    return folder


def sampled_accuracy(folder: Path, shards: Path) -> list[float]:
    """Mean accuracy of all sampled responses, step by step."""
    module = grpo_module(
        folder,
        loss={"beta": 0.0},
        sampling={"max_completion_length": 40},
        num_generations=GROUP,
        optimizer=optimizer(**TRAINED),
    )
    run = fit(module, grpo_data(shards, batch_size=16), AccuracyReward(), max_steps=STEPS, accumulate_grad_batches=1)
    return [logged["accuracy/pass@1"] for logged in run.logged]


def test_twenty_steps_raise_the_sampled_accuracy(cold_start: Path, learning_shards: Path) -> None:
    accuracy = sampled_accuracy(cold_start, learning_shards)
    assert len(accuracy) == STEPS
    assert 0.1 < accuracy[0] < 0.4
    assert mean(accuracy[-3:]) > 0.55


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys())
def test_broken_advantages_do_not(
    cold_start: Path, learning_shards: Path, monkeypatch: pytest.MonkeyPatch, broken: Break
) -> None:
    def injected(rewards: torch.Tensor, num_generations: int, scale_rewards: str = "group") -> GroupStatistics:
        return broken(group_advantages(rewards, num_generations, scale_rewards))

    monkeypatch.setattr("avrt.rollout.window_rollout.group_advantages", injected)
    accuracy = sampled_accuracy(cold_start, learning_shards)
    assert mean(accuracy[-3:]) < 0.25
