"""AdamW's settings and the learning-rate schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from avrt.config.numbers import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, ShareBelowOne


@dataclass
class OptimizerConfig:
    """AdamW and its schedule; defaults are the paper's.

    Attributes:
        learning_rate: peak, reached after warm-up.
        betas, eps, weight_decay: AdamW's. Biases and norm weights do not decay, as usual.
        schedule: after warm-up, ``cosine`` to 0, ``linear`` to 0, or ``constant``.
        warmup_steps: optimizer steps over which the rate rises from 0.
        total_steps: optimizer steps of the whole run, where the schedule ends; None takes `trainer.max_steps` or the
            steps of `trainer.max_epochs` epochs, whichever are fewer.
    """

    learning_rate: PositiveFloat = 2e-6
    betas: tuple[ShareBelowOne, ShareBelowOne] = (0.9, 0.999)
    eps: NonNegativeFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.01
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: NonNegativeInt = 100
    total_steps: PositiveInt | None = None


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: matrices decay, biases and norm weights (one-dimensional) do not."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for parameter in module.parameters():
        if parameter.requires_grad:
            shape = getattr(parameter, "ds_shape", parameter.shape)  # ZeRO-3 leaves a split parameter flat
            (decayed if len(shape) >= 2 else plain).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": weight_decay, "decays": True},
        {"params": plain, "weight_decay": 0.0, "decays": False},
    ]
    return [group for group in groups if group["params"]]  # adapters have matrices only, and DeepSpeed drops the other


def rate_factor(step: int, config: OptimizerConfig, total_steps: int) -> float:
    """Share of the peak learning rate in optimizer step `step` (from 0)."""
    if step < config.warmup_steps:
        return step / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    progress = min(1.0, (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps))
    if config.schedule == "linear":
        return 1 - progress
    if config.schedule != "cosine":
        raise ValueError(f"schedule must be cosine, linear or constant, got {config.schedule!r}")
    return 0.5 * (1 + math.cos(math.pi * progress))


def build_schedule(optimizer: torch.optim.Optimizer, config: OptimizerConfig, total_steps: int) -> LambdaLR:
    """The schedule over optimizer steps."""
    return LambdaLR(optimizer, lambda step: rate_factor(step, config, total_steps))
