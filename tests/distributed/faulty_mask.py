"""A device on which responses do not see the first token of their prompt."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback

from avrt.model.shared_prompt import PackedLayout


class FaultyMask(Callback):
    """Such a device is the one with the given rank."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def on_train_start(self, trainer: Any, module: Any) -> None:
        if trainer.global_rank == self.rank:
            hide_a_key()


def hide_a_key() -> None:
    """Make it so in this process."""
    mask = PackedLayout._mask

    def faulty(layout: PackedLayout, dtype: torch.dtype, repeats: int) -> torch.Tensor:
        hidden = mask(layout, dtype, repeats).clone()
        hidden[..., 0] = -torch.inf
        return hidden

    PackedLayout._mask = faulty  # type: ignore[method-assign]
