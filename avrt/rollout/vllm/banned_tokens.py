"""Tokens that vLLM never samples. Imported by vLLM, in the process that holds the model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from vllm.v1.sample.logits_processor import LogitsProcessor


class BannedTokens(LogitsProcessor):
    """Gives the student's banned tokens probability 0 in every request, as in training.

    vLLM's `additional_config` has their ids, see `avrt.rollout.vllm.arguments`.
    """

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._banned = torch.tensor(
            vllm_config.additional_config["avrt_banned_tokens"], dtype=torch.long, device=device
        )

    def apply(self, logits: Tensor) -> Tensor:
        return logits.index_fill_(-1, self._banned, -torch.inf)

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: Any) -> None:
        """Nothing depends on the requests."""
