"""Cutting a step into micro-batches, sharing prompts and bounding memory change no gradient (float64)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from avrt.model.token_logprobs import TokenLogprobs, token_logprobs
from avrt.rollout.builtin import TransformersRollout
from avrt.rollout.engine import RolloutEngine, SamplingConfig
from avrt.rollout.window_rollout import Rollout
from lightning_modules.grpo import GRPOModule
from lightning_modules.sft import SFTModule
from tests.lightning_modules.training import (
    Gradients,
    fit,
    grpo_data,
    grpo_module,
    sft_data,
    sft_module,
)
from tests.tiny_student import student_config, widen_norms


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
        ({"sampling": {"decoding": "static"}}, None),
    ]
    for settings, grows in changes:
        other_tokens, other_gradients, other_work = step(**settings)
        assert other_tokens == tokens, settings
        for name, gradient in gradients.items():
            torch.testing.assert_close(other_gradients[name], gradient, rtol=0, atol=1e-10)
        assert {what for what in work if other_work[what] > work[what]} == ({grows} if grows else set()), settings
