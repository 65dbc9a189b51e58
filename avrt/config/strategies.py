"""Names for `trainer.strategy`, with the arguments of the project's own.

Lightning's FSDP and its own DeepSpeed strategy are not supported: FSDP gathers weights when a layer is called, but the
head's weight is used without calling the head, and a device whose batch has no audio never calls the audio encoder;
Lightning's DeepSpeed divides accumulated losses twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from avrt.config.errors import UsageError, suggest

STRATEGIES: dict[str, dict[str, Any]] = {
    "avrt_zero2": {"stage": 2, "offload_optimizer": False},
    "avrt_zero2_offload": {"stage": 2, "offload_optimizer": True},
    # ZeRO-3 sums gradients in host memory: in float32, twice as much would cross in every micro-batch.
    "avrt_zero3": {"stage": 3, "offload_optimizer": True, "grad_accum_dtype": "bf16"},
}
"""Arguments of `lightning_modules.strategy.AVRTDeepSpeedStrategy` by name. ZeRO-3 splits the trained weights too."""

CHOICES = f"auto, ddp, {', '.join(STRATEGIES)}"
"""The supported names, for messages."""


def check_strategy_name(name: str, registered: Iterable[str]) -> None:
    """Refuse a name that is neither the project's own, nor ``auto``, nor one of Lightning's DDP strategies.

    Args:
        name: as in the config.
        registered: all names that Lightning knows.

    Raises:
        UsageError: with a near name, and the names to choose from.
    """
    known = ["auto", *STRATEGIES, *(other for other in registered if other.startswith("ddp"))]
    if name in known:
        return
    fix = suggest(name, known) or f"; set it to one of {CHOICES}"
    raise UsageError(f"trainer.strategy: {name!r} is not supported{fix}")
