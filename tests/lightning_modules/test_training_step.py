"""One optimizer step: the weights that move, the responses and losses, and steps that are skipped."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from avrt.data.shards import ShardSet
from avrt.model.token_logprobs import token_logprobs
from datamodules.windows import MicroBatch
from lightning_modules.grpo import GRPOModule
from tests.lightning_modules.training import (
    Constant,
    Gradients,
    fit,
    grpo_data,
    grpo_module,
    is_encoder,
    optimizer,
    sft_data,
    sft_module,
)
from tests.tiny_student import load_plain, load_student, plain_logits


@pytest.mark.parametrize("kind", ["sft", "grpo"])
def test_encoders_stay_bit_equal_and_the_rest_moves(any_student_folder: Path, shards: Path, kind: str) -> None:
    watched = Gradients()
    if kind == "sft":
        fit(sft_module(any_student_folder), sft_data(shards, batch_size=4), watched, max_steps=1)
    else:
        fit(grpo_module(any_student_folder), grpo_data(shards, batch_size=4), watched, max_steps=1)
    before, after = watched.weights
    assert before.keys() == after.keys()
    for name in before:
        if is_encoder(name):
            assert torch.equal(before[name], after[name]), name
        else:
            assert not torch.equal(before[name], after[name]), name
    assert not any(is_encoder(name) for name in watched.gradients[0])


def test_equal_rewards_give_exactly_no_gradient(student_folder: Path, shards: Path) -> None:
    watched = Gradients()
    settings: dict[str, Any] = {"loss": {"beta": 0.0}, "optimizer": optimizer(weight_decay=0.0)}
    run = fit(grpo_module(student_folder, **settings), grpo_data(shards), watched, Constant(), max_steps=2)
    assert len(watched.gradients) == 2
    for gradients in watched.gradients:
        assert gradients
        assert all((gradient == 0).all() for gradient in gradients.values())
    first, *_, last = watched.weights
    assert all(torch.equal(first[name], last[name]) for name in first)
    assert run.logged[-1]["frac_reward_zero_std"] == 1
    assert run.logged[-1]["grad_norm"] == 0


@pytest.mark.parametrize("mask", [True, False])
def test_truncated_completions_teach_nothing_on_request(student_folder: Path, shards: Path, mask: bool) -> None:
    """All of them are truncated: with the mask they have neither a policy gradient nor a KL term."""
    module = grpo_module(
        student_folder,
        loss={"beta": 0.04, "mask_truncated_completions": mask},
        sampling={"max_completion_length": 2},
        optimizer=optimizer(weight_decay=0.0),
    )
    run = fit(module, grpo_data(shards), max_steps=2)
    for logged in run.logged:
        assert logged["completions/clipped_ratio"] == 1
        assert ("kl" in logged) is not mask
        assert (logged["grad_norm"] == 0) is mask
    assert run.logged[-1]["sampling/sampling_logp_difference/mean"] < 1e-4


def test_sft_loss_is_cross_entropy_on_the_trace_alone(any_student_folder: Path, shards: Path) -> None:
    """Against transformers' own forward with labels on the trace only, averaged over all trace tokens of the step."""
    run = fit(sft_module(any_student_folder), sft_data(shards, batch_size=2, shuffle=False), max_steps=1)
    student, plain = load_student(any_student_folder), load_plain(any_student_folder, torch.float32)
    total, count = 0.0, 0
    for sample in list(ShardSet(shards))[:4]:
        prompt, target = student.encoder.encode(sample), student.encoder.encode_target(sample)
        with torch.no_grad():
            logits = plain_logits(plain, student, prompt, target)
        total += float(torch.nn.functional.cross_entropy(logits, target, reduction="sum"))
        count += len(target)
    assert run.logged[0]["loss"] == pytest.approx(total / count, rel=1e-5)


def test_the_rollout_uses_the_weights_after_the_last_step(student_folder: Path, shards: Path) -> None:
    """With a large learning rate: step k's recorded log-probs are those of the weights saved after step k - 1."""

    class Rollouts(Callback):
        def __init__(self) -> None:
            self.seen: list[Any] = []

        def on_train_batch_end(self, trainer: Any, module: GRPOModule, *_: Any) -> None:
            if trainer.global_step > len(self.seen):
                self.seen.append(module.rollout)

    watched, rollouts = Gradients(), Rollouts()
    fit(grpo_module(student_folder), grpo_data(shards), watched, rollouts, max_steps=3, precision="32-true")
    assert len(rollouts.seen) == 3
    student = load_student(student_folder)
    for step, rollout in enumerate(rollouts.seen):
        for before, near in ((watched.weights[step], True), (watched.weights[step - 1], False)):
            if step == 0 and not near:
                continue
            with torch.no_grad():
                for name, parameter in student.thinker.named_parameters():
                    parameter.copy_(before[name])
                scores = token_logprobs(
                    student.language_model,
                    rollout.prompts,
                    [[r.token_ids for r in group] for group in rollout.responses],
                    banned=student.banned_tokens,
                )
            recorded = torch.cat([r.logprobs for group in rollout.responses for r in group])
            distance = float((scores.logprobs[scores.mask] - recorded).abs().max())
            assert (distance < 1e-4) is near, (step, distance)


def test_the_first_steps_kl_is_zero_and_then_grows(student_folder: Path, shards: Path) -> None:
    """The reference is the student as it began; with the first update the policy leaves it."""
    run = fit(grpo_module(student_folder), grpo_data(shards), max_steps=2)
    assert run.logged[0]["kl"] == pytest.approx(0, abs=1e-9)
    assert run.logged[1]["kl"] > 1e-3


def test_no_reference_at_beta_zero(student_folder: Path, shards: Path) -> None:
    run = fit(grpo_module(student_folder, loss={"beta": 0.0}), grpo_data(shards), max_steps=1)
    assert "kl" not in run.logged[0]


def test_iterations_on_one_window(student_folder: Path, shards: Path) -> None:
    """Two steps on each window: one rollout, sampled log-probs as old ones, and ratios leave 1 in the second."""
    module = grpo_module(student_folder, num_iterations=2, loss={"epsilon": 0.01})
    run = fit(module, grpo_data(shards), max_steps=4)
    assert run.ids[0:2] == run.ids[2:4]
    assert run.tokens[0:2] == run.tokens[2:4]
    assert run.ids[4:6] == run.ids[6:8] != run.ids[0:2]
    assert run.logged[0]["clip_ratio/region_mean"] == 0
    assert run.logged[1]["clip_ratio/region_mean"] > 0
    assert module.student.encoder_runs == 4


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_training_scores_what_the_rollout_recorded(any_student_folder: Path, shards: Path, temperature: float) -> None:
    """Through the module, for every copy of every prompt: its first pass over a window, and the reference's."""

    class Compare(Callback):
        compared = 0

        def on_train_batch_end(
            self, trainer: Any, module: GRPOModule, outputs: Any, batch: MicroBatch, batch_idx: int
        ) -> None:
            rollout = module.rollout
            assert rollout is not None
            assert rollout.ref_logprobs is not None
            if batch.iteration:
                return
            copies = [r for group in rollout.responses[batch.start : batch.stop] for r in group]
            scored = rollout.old_logprobs[batch.start]
            reference = rollout.ref_logprobs[batch.start * module.num_generations :]
            for i, response in enumerate(copies):
                length = len(response.token_ids)
                torch.testing.assert_close(scored[i, :length], response.logprobs, rtol=0, atol=1e-4)
                torch.testing.assert_close(reference[i], response.logprobs, rtol=0, atol=1e-4)
                self.compared += 1

    compare = Compare()
    module = grpo_module(any_student_folder, sampling={"temperature": temperature}, num_iterations=2)
    fit(module, grpo_data(shards, batch_size=4), compare, max_steps=2)
    assert compare.compared == 2 * 4 * 3


def test_media_is_embedded_once_per_prompt_and_window(student_folder: Path, shards: Path) -> None:
    module = grpo_module(student_folder)
    fit(module, grpo_data(shards, batch_size=2), max_steps=2)
    assert module.student.encoder_runs == 2 * 2 * 2


def test_media_features_are_freed_after_their_window(student_folder: Path, shards: Path) -> None:
    class Watch(Callback):
        kept: weakref.ref[Any] | None = None
        freed = 0

        def on_train_batch_start(self, trainer: Any, module: Any, batch: MicroBatch, batch_idx: int) -> None:
            self.freed += batch.first and self.kept is not None and self.kept() is None

        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            self.kept = weakref.ref(module.rollout.prompts[0].media_features)

        def on_train_end(self, *_: Any) -> None:
            self.freed += self.kept is not None and self.kept() is None

    watch = Watch()
    fit(grpo_module(student_folder, num_iterations=2), grpo_data(shards, batch_size=2), watch, max_steps=4)
    assert watch.freed == 2


class Poison(Callback):
    """Breaks one micro-batch of the second optimizer step: its loss, or a single gradient."""

    def __init__(self, what: str) -> None:
        self.what = what

    def on_before_backward(self, trainer: Any, module: Any, loss: torch.Tensor) -> None:
        if self.what == "loss" and trainer.global_step == 1:
            loss.data.fill_(float("nan"))
            loss.register_hook(lambda gradient: gradient * float("nan"))

    def on_after_backward(self, trainer: Any, module: Any) -> None:
        if self.what == "gradient" and trainer.global_step == 1:
            module.student.thinker.lm_head.weight.grad[3, 5] = float("inf")


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("kind", ["sft", "grpo"])
def test_a_step_that_is_not_finite_changes_nothing(student_folder: Path, shards: Path, kind: str, what: str) -> None:
    watched = Gradients()
    if kind == "sft":
        module: Any = sft_module(student_folder)
        run = fit(module, sft_data(shards), Poison(what), watched, max_steps=3, gradient_clip_val=1.0)
    else:
        module = grpo_module(student_folder)
        run = fit(module, grpo_data(shards), Poison(what), watched, max_steps=3, gradient_clip_val=1.0)
    start, first, second, third = watched.weights
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(start[name], first[name]) for name in first)
    assert any(not torch.equal(third[name], second[name]) for name in first)
    assert all(value.isfinite().all() for value in third.values())
    assert [logged["skipped_steps"] for logged in run.logged] == [0, 1, 1]
