"""Importance-sampling correction between the engine that samples and the policy that is trained.

An engine with other kernels, another precision or earlier weights samples from a distribution q that is not the policy
π of before the update. The policy gradient is an expectation under π; each token's policy term is therefore multiplied
by π/q, bounded in one of four ways. Modes and bounds are those of TRL's ``vllm_importance_sampling_mode``.

Shape letters: N responses, C longest response.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from avrt.config.numbers import PositiveFloat

CorrectionMode = Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]

EXCEEDS_ALL = 20.0
"""Bound on a log-ratio, so that its exponential and its square stay finite in float32."""


@dataclass(frozen=True)
class SamplingCorrectionConfig:
    """How ratios π/q are bounded.

    Attributes:
        mode: ``token_*``: a ratio per token; ``sequence_*``: one per response, the product over its tokens.
            ``*_truncate``: ratios are clamped to the bounds; ``*_mask``: ratios outside the bounds become 0, and so
            does the policy term of those tokens.
        clip_max: upper bound; null for none.
        clip_min: lower bound; null for none. Without one, the ratios of long responses from a distribution that has
            moved away go to 0 by themselves, and with them the gradient.

    Raises:
        ValueError: the bounds exclude each other, or nothing is bounded.
    """

    mode: CorrectionMode = "sequence_mask"
    clip_max: PositiveFloat | None = 3.0
    clip_min: PositiveFloat | None = None

    def __post_init__(self) -> None:
        if self.clip_max is None and self.clip_min is None:
            raise ValueError("clip_max and clip_min are both null: give one of them, or leave the correction out")
        if self.clip_max is not None and self.clip_min is not None and self.clip_min >= self.clip_max:
            raise ValueError(f"clip_min is {self.clip_min:g}; it must be below clip_max, {self.clip_max:g}")

    @property
    def by_response(self) -> bool:
        """Whether there is one ratio per response."""
        return self.mode.startswith("sequence")


@dataclass(frozen=True)
class SamplingRatios:
    """Bounded ratios π/q.

    Attributes:
        values: ``[N, C]``, or ``[N, 1]`` with one ratio per response; no gradient.
        counted: bool, same shape: where there is a token (a response).
        masked: bool, same shape: where a ratio outside the bounds became 0.
        tokens: bool ``[N, C]``, the tokens that the ratios are of.
    """

    values: Tensor
    counted: Tensor
    masked: Tensor
    tokens: Tensor


@torch.no_grad()
def sampling_ratios(
    logprobs: Tensor, sampled: Tensor, mask: Tensor, config: SamplingCorrectionConfig
) -> SamplingRatios:
    """The bounded ratios of a batch.

    Args:
        logprobs: ``[N, C]`` under the policy of before the update.
        sampled: ``[N, C]`` as the engine reported them; a token without one (nan) has ratio 1.
        mask: bool ``[N, C]``, True on the response tokens that take part in the loss.
        config: mode and bounds.
    """
    difference = torch.where(mask, logprobs - sampled, 0.0).nan_to_num(nan=0.0)
    counted = mask
    if config.by_response:
        difference, counted = difference.sum(-1, keepdim=True), mask.any(-1, keepdim=True)
    ratios = difference.clamp(-EXCEEDS_ALL, EXCEEDS_ALL).exp()
    masked = torch.zeros_like(counted)
    if config.mode.endswith("truncate"):
        return SamplingRatios(ratios.clamp(config.clip_min, config.clip_max), counted, masked, mask)
    if config.clip_max is not None:
        masked = masked | (ratios > config.clip_max)
    if config.clip_min is not None:
        masked = masked | (ratios < config.clip_min)
    return SamplingRatios(ratios.masked_fill(masked, 0.0), counted, masked & counted, mask)
