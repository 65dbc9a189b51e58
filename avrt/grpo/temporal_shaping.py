"""Temporal advantage shaping: the first and the last tokens of a response get more of its advantage."""

from __future__ import annotations

import torch
from torch import Tensor


def temporal_weights(mask: Tensor, tas_lambda: float) -> Tensor:
    """Weights w_t = 1 + λ (2 t / (L - 1) - 1)² of token t = 0 … L - 1 of a response of L tokens.

    A parabola: 1 + λ at the first and the last token, 1 in the middle. The token's advantage is w_t A_i.

    The formula is AVATAR's (arXiv 2508.03100, "Temporal Advantage Shaping": w_t = 1.0 + λ_TAS (2 t̃ - 1)² with
    t̃ = t / (L - 1)), and that of the authors' code (github.com/yogkul2000/AVATAR, ``tas_lambda``, by default and in
    their training script 0.3). The paper leaves L = 1 open; here as in their code t̃ is then 0, and the weight 1 + λ.
    Weights are not normalized, there or here: over a long response their mean is 1 + λ / 3. The replay buffer and its
    advantages are other parts of that paper, which this project does not have.

    Args:
        mask: bool ``[N, C]``, True on response tokens, which begin at column 0.
        tas_lambda: λ, 0 for the same weight everywhere.

    Returns:
        float64 ``[N, C]``; 0 outside of the response.
    """
    last = (mask.sum(dim=1, keepdim=True) - 1).clamp(min=1)
    position = torch.arange(mask.shape[1], device=mask.device) / last.double()
    return (1 + tas_lambda * (2 * position - 1) ** 2) * mask
