"""An optimizer in host memory: whether its memory can be pinned, and what DeepSpeed forgets to clear."""

from __future__ import annotations

from typing import Any

from torch import nn

from avrt.model.offloaded_memory import offloaded_memory


def host_bytes(module: nn.Module, devices: int, stage: int, fp32_sums: bool, accumulates: bool) -> int:
    """Bytes that one process of `devices` keeps in host memory, pinned."""
    trained = [p for p in module.parameters() if p.requires_grad]
    sizes = [p.numel() for p in trained]
    width = trained[0].element_size()
    memory = offloaded_memory(sum(sizes), max(sizes), width, devices, stage, fp32_sums, accumulates, pinned=True)
    return memory.total


def drop_skipped_gradients(optimizer: Any) -> None:
    """Forget the gradients of a step that DeepSpeed has skipped because they were not finite.

    Stage 2 with offload and sums in float32 keeps them otherwise (0.19.8): they would be added to the next step's, and
    one NaN would have every later step skipped.
    """
    if getattr(optimizer, "overflow", False) and getattr(optimizer, "cpu_offload", False):
        for group in optimizer.averaged_gradients:
            optimizer.averaged_gradients[group] = None
