"""The GRPO objective and its metrics.

Shape letters: N responses of the batch, C longest response.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from avrt.config.numbers import NonNegativeFloat, PositiveFloat
from avrt.grpo.advantage import Aggregation, RewardScale
from avrt.grpo.temporal_shaping import temporal_weights

LossType = Literal["grpo", "bnpo", "dr_grpo", "dapo"]
SamplingLevel = Literal["token", "sequence"]


@dataclass(frozen=True)
class LossConfig:
    """Settings of the objective; names follow TRL's GRPOConfig (`type` is its ``loss_type``), defaults are the paper's.

    Attributes:
        type: reduction of the token losses. ``grpo``: mean over each response's tokens, then over responses. ``bnpo``:
            mean over all tokens of the optimizer step on this device. ``dapo``: the same over all devices. ``dr_grpo``:
            sum over tokens divided by responses times the token limit of a response.
        beta: weight of the KL term; at 0 no reference policy is needed.
        epsilon: clip range below 1, and above 1 too unless `epsilon_high` is set.
        epsilon_high: clip range above 1.
        importance_sampling_level: ``token`` (GRPO) or ``sequence`` (GSPO: one ratio per response, the exponential of
            the mean token log-ratio).
        scale_rewards: divisor of the advantages, see `avrt.grpo.advantage.group_advantages`.
        multi_objective_aggregation: ``sum_then_normalize`` (the paper): rewards are summed with their weights, and the
            sum is normalized as `scale_rewards` says. ``normalize_then_sum`` (GDPO): each reward is normalized in its
            group, then they are summed with their weights and divided by the batch's standard deviation; see
            `avrt.grpo.advantage.normalized_in_group`.
        mask_truncated_completions: leave responses that the token limit cut out of the loss, policy and KL term. Their
            rewards count in their group's mean and deviation all the same, and they count as responses where a loss is
            divided by those; their tokens do not count. As in TRL.
        tas_lambda: λ of AVATAR's temporal advantage shaping, see `avrt.grpo.temporal_shaping.temporal_weights`; 0 is
            off, 0.3 its authors' value. The weights multiply the token advantages and so, before they are reduced, the
            clipped losses of tokens; the KL term and all denominators stay as they are, in every `type`. Refused with
            sequence ratios: all tokens of a response then have one gradient factor, so its parts cannot differ.

    Raises:
        ValueError: two settings that exclude each other.
    """

    type: LossType = "grpo"
    beta: NonNegativeFloat = 0.01
    epsilon: PositiveFloat = 0.2
    epsilon_high: PositiveFloat | None = None
    importance_sampling_level: SamplingLevel = "token"
    scale_rewards: RewardScale = "group"
    multi_objective_aggregation: Aggregation = "sum_then_normalize"
    mask_truncated_completions: bool = False
    tas_lambda: NonNegativeFloat = 0.0

    def __post_init__(self) -> None:
        if self.tas_lambda and self.importance_sampling_level == "sequence":
            raise ValueError(
                "tas_lambda weighs tokens by position, but importance_sampling_level sequence has one ratio for all "
                "tokens of a response: set tas_lambda to 0 or importance_sampling_level to token"
            )
        if self.multi_objective_aggregation == "normalize_then_sum" and self.scale_rewards != "group":
            raise ValueError(
                f"scale_rewards {self.scale_rewards} has no effect with multi_objective_aggregation "
                "normalize_then_sum, which scales by group and then by batch: leave scale_rewards out"
            )


DEFAULT_LOSS = LossConfig()


@dataclass(frozen=True)
class Normalizer:
    """The totals that losses are divided by; counted over the whole optimizer step, not over a micro-batch.

    Dividing every micro-batch's sum by the step's totals makes the gradient independent of how the step is cut.

    Attributes:
        responses: responses of the optimizer step on this device.
        tokens: response tokens of the optimizer step on this device.
        tokens_per_device: response tokens of the step over all devices, divided by the number of devices.
        max_completion_length: the token limit of a response.
    """

    responses: int
    tokens: int
    tokens_per_device: float
    max_completion_length: int


@dataclass(frozen=True)
class LossOutput:
    """Loss of a micro-batch, and its metrics.

    Attributes:
        loss: scalar; the micro-batch's share of the optimizer step's loss (shares add up to the loss).
        sums: metric name -> (sum, weight), both floats tensors; a metric over several micro-batches or devices is
            sum of sums / sum of weights.
    """

    loss: Tensor
    sums: dict[str, tuple[Tensor, Tensor]]


def grpo_loss(
    logprobs: Tensor,
    mask: Tensor,
    advantages: Tensor,
    config: LossConfig,
    normalizer: Normalizer,
    old_logprobs: Tensor | None = None,
    ref_logprobs: Tensor | None = None,
    entropies: Tensor | None = None,
    sampling_ratios: Tensor | None = None,
) -> LossOutput:
    """Clipped policy-gradient loss with a KL penalty to the reference policy.

    With the ratio ρ = exp(logp - logp_old), the token loss is
    ``-min(ρ A, clip(ρ, 1 - ε_low, 1 + ε_high) A) + β (exp(ref - logp) - (ref - logp) - 1)``. All tokens of a
    response have the same advantage A unless ``tas_lambda`` is set.

    Args:
        logprobs: ``[N, C]`` log-probabilities of the sampled tokens under the policy; carries the gradient.
        mask: bool ``[N, C]``, True on response tokens.
        advantages: ``[N]``.
        config: the objective's settings.
        normalizer: totals of the optimizer step.
        old_logprobs: ``[N, C]`` under the policy that sampled; None if no update has happened since: then they are
            `logprobs` without gradient, at no extra cost.
        ref_logprobs: ``[N, C]`` under the reference policy; needed unless ``beta`` is 0.
        entropies: ``[N, C]`` of the policy, only logged.
        sampling_ratios: ``[N, C]`` or ``[N, 1]``, factors of the policy term, see `avrt.grpo.sampling_correction`; None
            for 1.
    """
    weight = mask.to(logprobs.dtype)
    # Padding may hold anything, nan included; it must reach neither the value nor the gradient.
    logprobs = torch.where(mask, logprobs, logprobs.detach().new_zeros(()))
    old = logprobs.detach() if old_logprobs is None else torch.where(mask, old_logprobs, 0.0)
    log_ratio = logprobs - old
    if config.importance_sampling_level == "sequence":
        log_ratio = (log_ratio * weight).sum(-1, keepdim=True) / weight.sum(-1, keepdim=True).clamp(min=1.0)
    elif config.importance_sampling_level != "token":
        raise ValueError(
            f"importance_sampling_level must be token or sequence, got {config.importance_sampling_level!r}"
        )
    ratio = log_ratio.exp()
    low, high = config.epsilon, config.epsilon if config.epsilon_high is None else config.epsilon_high
    advantage = advantages[:, None].to(logprobs.dtype)
    if config.tas_lambda:
        advantage = advantage * temporal_weights(mask, config.tas_lambda).to(logprobs.dtype)
    token_loss = -torch.min(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)
    if sampling_ratios is not None:
        token_loss = token_loss * sampling_ratios.to(token_loss.dtype)

    sums: dict[str, tuple[Tensor, Tensor]] = {}
    tokens = weight.sum()
    if config.beta:
        if ref_logprobs is None:
            raise ValueError("beta is not 0: ref_logprobs are needed")
        difference = torch.where(mask, ref_logprobs, 0.0) - logprobs
        kl = difference.exp() - difference - 1
        token_loss = token_loss + config.beta * kl
        sums["kl"] = ((kl.detach() * weight).sum(), tokens)
    if entropies is not None:
        sums["entropy"] = ((torch.where(mask, entropies, 0.0) * weight).sum(), tokens)

    token_loss = token_loss * weight
    if config.type == "grpo":
        loss = (token_loss.sum(-1) / weight.sum(-1).clamp(min=1.0)).sum() / normalizer.responses
    elif config.type == "bnpo":
        loss = token_loss.sum() / max(normalizer.tokens, 1)
    elif config.type == "dapo":
        loss = token_loss.sum() / max(normalizer.tokens_per_device, 1.0)
    elif config.type == "dr_grpo":
        loss = token_loss.sum() / (normalizer.responses * normalizer.max_completion_length)
    else:
        raise ValueError(f"type must be one of {', '.join(get_args(LossType))}, got {config.type!r}")
    sums.update(_clip_sums(ratio.detach(), advantage, weight, low, high))
    return LossOutput(loss, sums)


def _clip_sums(
    ratio: Tensor, advantage: Tensor, weight: Tensor, low: float, high: float
) -> dict[str, tuple[Tensor, Tensor]]:
    """Shares of tokens (or of responses, for sequence ratios) whose gradient is zero because of clipping."""
    clipped_low = ((ratio < 1 - low) & (advantage < 0)).to(weight.dtype)
    clipped_high = ((ratio > 1 + high) & (advantage > 0)).to(weight.dtype)
    if ratio.shape[-1] == 1 and weight.shape[-1] != 1:
        count = torch.tensor(float(ratio.shape[0]), dtype=weight.dtype, device=weight.device)
    else:
        clipped_low, clipped_high, count = clipped_low * weight, clipped_high * weight, weight.sum()
    return {
        "clip_ratio/low_mean": (clipped_low.sum(), count),
        "clip_ratio/high_mean": (clipped_high.sum(), count),
        "clip_ratio/region_mean": (clipped_low.sum() + clipped_high.sum(), count),
    }
