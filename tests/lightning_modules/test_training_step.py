"""One optimizer step: what moves, what must not, and what cutting it into micro-batches changes (nothing)."""

from __future__ import annotations

import math
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from avrt.data.shards import ShardSet
from avrt.model.token_logprobs import TokenLogprobs, token_logprobs
from avrt.rollout.builtin import TransformersRollout
from avrt.rollout.engine import RolloutEngine, SamplingConfig
from avrt.rollout.window import Rollout
from datamodules.windows import MicroBatch
from lightning_modules.grpo import GRPOModule
from lightning_modules.sft import SFTModule
from tests.lightning_modules.training import (
    Constant,
    fit,
    grpo_data,
    grpo_module,
    is_encoder,
    optimizer,
    sft_data,
    sft_module,
    weights,
    write_shards,
)
from tests.tiny_student import load_plain, load_student, plain_logits, student_config, widen_norms


class Gradients(Callback):
    """The gradient of every optimizer step, before clipping, and the weights before and after it."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, torch.Tensor]] = []
        self.weights: list[dict[str, torch.Tensor]] = []

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self.weights.append(weights(module))

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        named = module.student.thinker.named_parameters()
        self.gradients.append({name: p.grad.clone() for name, p in named if p.grad is not None})

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch.last:
            self.weights.append(weights(module))


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


class ExactGRPO(GRPOModule):
    """In float64 throughout."""

    def student_loaded(self) -> None:
        widen_norms(self.student.thinker.model.language_model)
        super().student_loaded()


class ExactSFT(SFTModule):
    """In float64 throughout."""

    def student_loaded(self) -> None:
        widen_norms(self.student.thinker.model.language_model)


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo"])
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_cutting_a_grpo_step_changes_nothing(student_folder: Path, shards: Path, loss_type: str, level: str) -> None:
    """One micro-batch of four prompts, two of two, four of one: the same gradient, float64."""
    results = []
    for batch_size in (4, 2, 1):
        watched = Gradients()
        module = grpo_module(
            student_folder,
            ExactGRPO,
            student=student_config(student_folder, dtype="float64"),
            loss={"type": loss_type, "importance_sampling_level": level},
        )
        run = fit(
            module,
            grpo_data(shards, batch_size=batch_size),
            watched,
            max_steps=1,
            accumulate_grad_batches=4 // batch_size,
        )
        results.append((watched.gradients[0], run.logged[0], [row for part in run.tokens for row in part]))
    (gradients, logged, tokens), *others = results
    assert max(float(g.abs().max()) for g in gradients.values()) > 1e-4
    for other, other_logged, other_tokens in others:
        assert other_tokens == tokens
        for name, gradient in gradients.items():
            torch.testing.assert_close(other[name], gradient, rtol=0, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")
        for name in ("loss", "kl", "entropy", "reward", "grad_norm", "completions/mean_length"):
            assert other_logged[name] == pytest.approx(logged[name], rel=1e-6, abs=1e-10), name


def test_cutting_an_sft_step_changes_nothing(student_folder: Path, shards: Path) -> None:
    results = []
    for batch_size in (4, 2, 1):
        watched = Gradients()
        module = sft_module(student_folder, ExactSFT, student=student_config(student_folder, dtype="float64"))
        run = fit(
            module,
            sft_data(shards, batch_size=batch_size),
            watched,
            max_steps=1,
            accumulate_grad_batches=4 // batch_size,
        )
        results.append((watched.gradients[0], run.logged[0]))
    (gradients, logged), *others = results
    for other, other_logged in others:
        for name, gradient in gradients.items():
            torch.testing.assert_close(other[name], gradient, rtol=0, atol=1e-10)
        assert other_logged["loss"] == pytest.approx(logged["loss"], rel=1e-9)


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


class PromptPerResponse(ExactGRPO):
    """Computes a prompt once for each of its responses in the training pass."""

    def policy_logprobs(self, rollout: Rollout, prompts: slice) -> TokenLogprobs:
        return token_logprobs(
            self.student.language_model,
            rollout.prompts[prompts],
            [[response.token_ids for response in group] for group in rollout.responses[prompts]],
            banned=self.student.banned_tokens,
            share_prompt=False,
        )


class PrefillPerResponse(ExactGRPO):
    """Prefills a prompt once for each of its responses."""

    def rollout_engine(self, sampling: SamplingConfig) -> RolloutEngine:
        student = self.student
        banned = student.banned_tokens
        return TransformersRollout(student.language_model, sampling, student.eos_token_ids, banned, share_prefill=False)


def test_sharing_and_cutting_change_no_step(student_folder: Path, shards: Path) -> None:
    """One by one, through the module: the same tokens and gradient, and the work that is saved."""

    def step(
        kind: type[GRPOModule] = ExactGRPO, encoder_tokens: int = 4096, **settings: Any
    ) -> tuple[Any, dict[str, torch.Tensor], dict[str, int]]:
        tokens, encoders = [], []

        class Count(Callback):
            def on_train_start(self, trainer: Any, module: Any) -> None:
                model = module.student.thinker.model
                layer = model.language_model.layers[0].mlp
                layer.register_forward_pre_hook(lambda _, inputs: tokens.append(inputs[0].shape[1]))
                model.visual.register_forward_pre_hook(lambda *_: encoders.append(1))

        watched = Gradients()
        student = student_config(student_folder, dtype="float64", encoder_batch_tokens=encoder_tokens)
        module = grpo_module(student_folder, kind, student=student, **settings)
        run = fit(module, grpo_data(shards, batch_size=4), watched, Count(), max_steps=1)
        # The prefill comes first, the one gradient pass last.
        work = {"prefill": tokens[0], "training": tokens[-1], "passes": len(tokens), "encoders": len(encoders)}
        return run.tokens, watched.gradients[0], work

    tokens, gradients, work = step()
    changes: list[tuple[dict[str, Any], str | None]] = [
        ({"kind": PromptPerResponse}, "training"),
        ({"kind": PrefillPerResponse}, "prefill"),
        ({"sampling": {"kv_cache_tokens": 1}}, "passes"),
        ({"encoder_tokens": 1}, "encoders"),
        ({"chunk_rows": 0}, None),
    ]
    for settings, grows in changes:
        other_tokens, other_gradients, other_work = step(**settings)
        assert other_tokens == tokens, settings
        for name, gradient in gradients.items():
            torch.testing.assert_close(other_gradients[name], gradient, rtol=0, atol=1e-10)
        assert {what for what in work if other_work[what] > work[what]} == ({grows} if grows else set()), settings


def test_mixed_precision_rolls_out_and_refers_as_it_trains(student_folder: Path, shards: Path) -> None:
    """Lightning sets precision up for steps alone: the reference must not score in another one than the policy."""
    run = fit(grpo_module(student_folder), grpo_data(shards), max_steps=1, precision="bf16-mixed")
    assert run.logged[0]["kl"] == 0
    assert run.logged[0]["sampling_logp_difference"] < 0.02


def test_flex_attention_is_refused_where_it_has_no_gradient(student_folder: Path, shards: Path) -> None:
    module = grpo_module(student_folder, student=student_config(student_folder, attention_kernel="flex"))
    with pytest.raises(ValueError, match=r"model\.student\.attention_kernel.*sdpa"):
        fit(module, grpo_data(shards), max_steps=1)


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


@pytest.mark.parametrize(("dtype", "precision"), [("float64", "64-true"), ("float32", "bf16-mixed")])
def test_other_precisions(student_folder: Path, shards: Path, tmp_path: Path, dtype: str, precision: str) -> None:
    data = grpo_data(shards, val=str(write_shards(tmp_path, 2, first=10)))
    module = grpo_module(student_folder, student=student_config(student_folder, dtype=dtype))
    run = fit(module, data, max_steps=2, precision=precision, num_sanity_val_steps=1)
    assert all(math.isfinite(loss) for loss in run.losses)
    assert module.student.thinker.lm_head.weight.dtype == getattr(torch, dtype)


@pytest.mark.parametrize("precision", ["bf16-true", "64-true", "32-true"])
def test_validation_in_any_precision(student_folder: Path, shards: Path, precision: str) -> None:
    trainer = Trainer(accelerator="cpu", precision=precision, logger=False, enable_progress_bar=False)
    dtype = {"bf16-true": "bfloat16", "64-true": "float64", "32-true": "float32"}[precision]
    module = grpo_module(student_folder, student=student_config(student_folder, dtype=dtype))
    (metrics,) = trainer.validate(module, grpo_data(shards, val=str(shards), val_samples=3), verbose=False)
    assert set(metrics) == {"val/accuracy", "val/format"}
    assert module.student.thinker.lm_head.weight.dtype == getattr(torch, dtype)
    for name, buffer in module.named_buffers():
        assert "inv_freq" not in name or buffer.dtype == torch.float32, name


def test_gradient_checkpointing_changes_nothing(student_folder: Path, shards: Path) -> None:
    """Through Lightning: layers really are recomputed, and the gradient is the same."""
    results = []
    for checkpointing in (False, True):
        calls: list[int] = []

        class Count(Callback):
            def on_train_batch_start(self, trainer: Any, module: Any, *_: Any, calls: list[int] = calls) -> None:
                if not calls:
                    layer = module.student.language_model.text_model.layers[0].mlp
                    layer.register_forward_pre_hook(lambda *_: calls.append(1))
                calls.append(0)

        watched = Gradients()
        module = sft_module(
            student_folder, student=student_config(student_folder, gradient_checkpointing=checkpointing)
        )
        fit(module, sft_data(shards), Count(), watched, max_steps=1)
        results.append((sum(calls), watched.gradients[0]))
    (once, plain), (twice, recomputed) = results
    assert (once, twice) == (2, 4)
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient, rtol=0, atol=1e-6)
