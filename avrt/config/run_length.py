"""Number of optimizer steps of a run, counted as Lightning counts them."""

from __future__ import annotations

import math


def run_length(
    batches: int, accumulate: int, max_epochs: int, max_steps: int = -1, limit: int | float | None = None
) -> int:
    """Optimizer steps of a run that ends after a number of epochs, or earlier after `max_steps`.

    Args:
        batches: micro-batches in an epoch.
        accumulate: micro-batches in an optimizer step (`trainer.accumulate_grad_batches`).
        max_epochs: 0 or more.
        max_steps: -1 for no limit.
        limit: `trainer.limit_train_batches`, a number of micro-batches per epoch or a share of them; None for all.
    """
    if limit is not None:
        share = isinstance(limit, float) and limit <= 1
        batches = int(batches * limit) if share else min(batches, int(limit))
    steps = math.ceil(batches / accumulate) * max_epochs
    return steps if max_steps < 0 else min(steps, max_steps)
