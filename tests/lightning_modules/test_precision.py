"""Precisions, attention kernels and gradient checkpointing, through Lightning."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from tests.lightning_modules.training import (
    Gradients,
    fit,
    grpo_data,
    grpo_module,
    sft_data,
    sft_module,
    write_shards,
)
from tests.tiny_student import student_config


def test_mixed_precision_rolls_out_and_refers_as_it_trains(student_folder: Path, shards: Path) -> None:
    """Lightning sets precision up for steps alone: the reference must not score in another one than the policy."""
    run = fit(grpo_module(student_folder), grpo_data(shards), max_steps=1, precision="bf16-mixed")
    assert run.logged[0]["kl"] == 0
    assert run.logged[0]["sampling/sampling_logp_difference/mean"] < 0.02


def test_flex_attention_is_refused_where_it_has_no_gradient(student_folder: Path, shards: Path) -> None:
    module = grpo_module(student_folder, student=student_config(student_folder, attention_kernel="flex"))
    with pytest.raises(ValueError, match=r"model\.student\.attention_kernel.*sdpa"):
        fit(module, grpo_data(shards), max_steps=1)


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
