"""TRL's own GRPOTrainer code, fed with tensors: the numerical oracle of loss, advantages and metrics.

A `GRPOTrainer` is made without its constructor (which wants a model, a tokenizer and a data set) and given only what
`_compute_loss` and `_generate_and_score_completions` read. Their code runs unchanged; no formula of TRL is repeated.
"""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from trl import GRPOTrainer

from avrt.grpo.loss import LossConfig
from avrt.grpo.sampling_correction import SamplingCorrectionConfig

END_TOKEN = 2


class NoModel(nn.Module):
    """Replaces the model; the log-probs are given."""

    is_gradient_checkpointing = False


def make_trainer(**attributes: Any) -> GRPOTrainer:
    trainer = GRPOTrainer.__new__(GRPOTrainer)
    defaults = {
        "accelerator": Accelerator(cpu=True),
        "model": NoModel(),
        "use_vllm": False,
        "aux_loss_enabled": False,
        "_entropy_bonus_enabled": False,
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "_metrics": {"train": defaultdict(list), "eval": defaultdict(list)},
    }
    for name, value in {**defaults, **attributes}.items():
        setattr(trainer, name, value)
    return trainer


def trl_loss(
    logprobs: Tensor,
    mask: Tensor,
    advantages: Tensor,
    config: LossConfig,
    max_completion_length: int,
    old_logprobs: Tensor | None = None,
    ref_logprobs: Tensor | None = None,
    entropies: Tensor | None = None,
    accumulation_steps: int = 1,
    step_tokens: int | None = None,
    sampling_ratios: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """TRL's loss of one micro-batch and the metrics it logs about it."""
    entropies = torch.zeros_like(logprobs) if entropies is None else entropies
    trainer = make_trainer(
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=accumulation_steps),
        current_gradient_accumulation_steps=accumulation_steps,
        loss_type=config.type,
        beta=config.beta,
        epsilon_low=config.epsilon,
        epsilon_high=config.epsilon if config.epsilon_high is None else config.epsilon_high,
        importance_sampling_level=config.importance_sampling_level,
        max_completion_length=max_completion_length,
        use_vllm=sampling_ratios is not None,
        vllm_importance_sampling_correction=sampling_ratios is not None,
        _get_per_token_logps_and_entropies=lambda *_, **__: (logprobs, entropies, None),
    )
    prompt = torch.ones(len(mask), 1, dtype=torch.long)
    inputs = {
        "prompt_ids": prompt,
        "prompt_mask": prompt,
        "completion_ids": torch.zeros_like(mask, dtype=torch.long),
        "completion_mask": mask.long(),
        "advantages": advantages,
        "num_items_in_batch": torch.tensor(step_tokens or int(mask.sum())),
    }
    if old_logprobs is not None:
        inputs["old_per_token_logps"] = old_logprobs
    if ref_logprobs is not None:
        inputs["ref_per_token_logps"] = ref_logprobs
    if sampling_ratios is not None:
        inputs["importance_sampling_ratio"] = sampling_ratios
    loss = trainer._compute_loss(trainer.model, inputs)
    return loss, {name: values[0] for name, values in trainer._metrics["train"].items()}


def trl_advantages(
    rewards: Tensor,
    num_generations: int,
    scale_rewards: str,
    weights: Tensor | None = None,
    aggregation: str = "sum_then_normalize",
) -> tuple[Tensor, dict[str, float]]:
    """TRL's advantages ``[N]`` of rewards ``[N, rewards]``, and the reward metrics it logs."""
    completion_ids = [[END_TOKEN]] * len(rewards)
    output, metrics = trl_scored(rewards, num_generations, scale_rewards, weights, aggregation, completion_ids)
    return output["advantages"], metrics


def trl_scored(
    rewards: Tensor,
    num_generations: int,
    scale_rewards: str,
    weights: Tensor | None,
    aggregation: str,
    completion_ids: list[list[int]],
    mask_truncated_completions: bool = False,
    correction: SamplingCorrectionConfig | None = None,
    logprobs: Tensor | None = None,
    sampled: list[list[float]] | None = None,
) -> tuple[dict[str, Any], dict[str, float]]:
    """TRL's rollout of these completions with these rewards: its inputs of the loss, and the metrics it logs.

    With a `correction`, `sampled` are the log-probabilities of vLLM, and `logprobs` ``[N, C]`` those of the policy.
    """
    count = len(rewards)
    vllm = (
        {}
        if correction is None
        else {
            "use_vllm": True,
            "vllm_importance_sampling_correction": True,
            "vllm_importance_sampling_mode": correction.mode,
            "vllm_importance_sampling_clip_max": correction.clip_max,
            "vllm_importance_sampling_clip_min": correction.clip_min,
            "_get_per_token_logps_and_entropies": lambda *_, **__: (logprobs, None, None),
        }
    )
    trainer = make_trainer(
        args=SimpleNamespace(
            steps_per_generation=1,
            gradient_accumulation_steps=1,
            per_device_train_batch_size=count,
            gradient_checkpointing_kwargs=None,
        ),
        environment_factories=None,
        environments=None,
        tools=None,
        pad_to_multiple_of=None,
        mask_truncated_completions=mask_truncated_completions,
        eos_token_ids=[END_TOKEN],
        num_iterations=1,
        beta=0.0,
        num_generations=num_generations,
        multi_objective_aggregation=aggregation,
        reward_weights=torch.ones(rewards.shape[1], dtype=rewards.dtype) if weights is None else weights,
        reward_funcs=[None] * rewards.shape[1],
        reward_func_names=[f"reward{i}" for i in range(rewards.shape[1])],
        scale_rewards=scale_rewards,
        log_multimodal=False,
        _tokenizer=SimpleNamespace(pad_token_id=0),
        _logs=defaultdict(list, rewards=defaultdict(list), extra=defaultdict(list)),
        _pending_extra_logs={},
        _pending_metrics={},
        _generate=lambda prompts: ([[1]] * count, completion_ids, None, [""] * count, sampled, {}, None, None),
        _calculate_rewards=lambda *_: rewards,
        **vllm,
    )
    # TRL computes n / (n - 1) in the default type.
    before = torch.get_default_dtype()
    torch.set_default_dtype(rewards.dtype)
    try:
        output = trainer._generate_and_score_completions([{"prompt": "x"} for _ in range(count)])
    finally:
        torch.set_default_dtype(before)
    return output, {name: values[0] for name, values in trainer._metrics["train"].items()}
