"""The same step however it is cut over micro-batches and processes, with DeepSpeed or without."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from tests.distributed.runs import Run

CUTS = ("plain 4x1", "plain 1x4", "deepspeed 4x1", "deepspeed 1x4")


def assert_same_training(one: Run, other: Run) -> None:
    """Losses, gradient norms and, after three steps, all trained weights; batches mix all combinations of streams."""
    assert other.losses() == pytest.approx(one.losses(), abs=2e-6)
    assert len(one.losses()) == 3
    rates = [step["learning_rate"] for step in one.steps_of()]
    assert rates == pytest.approx([1e-3, 9.755e-4, 9.045e-4], rel=1e-3)  # a cosine over ten optimizer steps
    assert [step["learning_rate"] for step in other.steps_of()] == rates
    norms = [step["grad_norm"] for step in one.steps_of()]
    assert all(norm > 0.5 for norm in norms)  # all of them are clipped
    assert [step["grad_norm"] for step in other.steps_of()] == pytest.approx(norms, rel=1e-5)
    weights, others = one.weights(), other.weights()
    assert weights.keys() == others.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(others[name], weight, rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize("task", ["sft", "grpo"])
@pytest.mark.parametrize("cut", CUTS[1:])
def test_micro_batches(one_process: Mapping[str, Run], task: str, cut: str) -> None:
    assert_same_training(one_process[f"{task} {CUTS[0]}"], one_process[f"{task} {cut}"])


@pytest.mark.parametrize("task", ["sft", "grpo"])
@pytest.mark.parametrize("strategy", ["plain", "deepspeed", "offload", "stated"])
def test_two_processes(
    one_process: Mapping[str, Run], two_processes: Mapping[str, Run], task: str, strategy: str
) -> None:
    run = two_processes[f"{task} {strategy}"]
    assert_same_training(one_process[f"{task} {CUTS[0]}"], run)
    assert run.steps_of(0) == run.steps_of(1)  # metrics are reduced over processes


def test_zero3(one_process: Mapping[str, Run], two_processes: Mapping[str, Run]) -> None:
    """Processes whose batches differ in their streams gather the same layers: nothing hangs, the steps are the same."""
    whole, split = one_process["sft plain 4x1"], two_processes["sft zero3"]
    assert split.losses() == pytest.approx(whole.losses(), abs=2e-6)
    norms = [step["grad_norm"] for step in whole.steps_of()]
    assert [step["grad_norm"] for step in split.steps_of()] == pytest.approx(norms, rel=1e-5)


def test_validation_changes_nothing(two_processes: Mapping[str, Run]) -> None:
    """Answers are sampled by the very modules that DeepSpeed trains, and both processes share the questions."""
    run = two_processes["sft validated"]
    assert_same_training(two_processes["sft deepspeed"], run)
    assert "val/format" not in run.steps_of()[0]
    assert {step["val/format"] for step in run.steps_of() if "val/format" in step} == {0}  # a random student


def test_weights_move(one_process: Mapping[str, Run]) -> None:
    """The compared values have changed by far more than the tolerance of the comparisons above."""
    first = one_process["sft plain 4x1"].weights()
    assert first.keys()
    losses = one_process["sft plain 4x1"].losses()
    assert losses[0] - losses[-1] > 0.05


@pytest.mark.parametrize("variant", ["sft checkpointing", "grpo host reference"])
def test_memory_settings_change_nothing(one_process: Mapping[str, Run], variant: str) -> None:
    task = variant.split()[0]
    assert_same_training(one_process[f"{task} plain 4x1"], one_process[variant])


@pytest.mark.parametrize("name", ["sft bfloat16", "grpo bfloat16", "sft lora", "grpo lora"])
def test_variants_train(one_process: Mapping[str, Run], name: str) -> None:
    steps = one_process[name].steps_of()
    assert [step["step"] for step in steps] == [1, 2, 3]
    assert all(0 < step["grad_norm"] < 100 for step in steps)
    if name.startswith("grpo"):
        # Policy and reference are one and the same in the first step, rotary frequencies and adapters included.
        assert steps[0]["kl"] == 0
        assert steps[-1]["kl"] > 0
    else:
        assert steps[-1]["loss"] < steps[0]["loss"] - (0.0 if "lora" in name else 0.1)


def test_bfloat16_follows_float32(one_process: Mapping[str, Run]) -> None:
    """Masters are float32: the weights move although each update is far below bfloat16's resolution."""
    steps = one_process["sft bfloat16"].steps_of()
    assert steps[0]["loss"] == pytest.approx(one_process["sft plain saved"].losses()[0], rel=0.01)
    assert steps[-1]["loss"] == pytest.approx(one_process["sft plain saved"].losses()[-1], rel=0.02)


def test_only_adapters_are_trained(one_process: Mapping[str, Run]) -> None:
    assert all("lora_" in name for name in one_process["sft lora"].weights())
    assert len(one_process["sft lora"].weights()) == 2 * 7 * 2  # A and B of seven matrices in two layers
