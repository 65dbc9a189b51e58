"""Optimizer steps: how many micro-batches make one, and how many a run has."""

from __future__ import annotations

import math


def accumulation(prompts_per_step: int, batch_size: int, devices: int, given: int = 1) -> int:
    """Micro-batches of one optimizer step.

    Args:
        prompts_per_step: prompts of one optimizer step over all devices (`data.prompts_per_step`).
        batch_size: prompts per device and micro-batch (`data.batch_size`).
        devices: over all machines.
        given: `trainer.accumulate_grad_batches`; 1 is its default.

    Raises:
        ValueError: `batch_size` x `devices` does not divide `prompts_per_step`, with the numbers that would; or `given`
            contradicts it.
    """
    at_once = batch_size * devices
    if prompts_per_step % at_once == 0:
        micro_batches = prompts_per_step // at_once
        if given not in (1, micro_batches):
            raise ValueError(
                f"trainer.accumulate_grad_batches is {given}, and data.prompts_per_step {prompts_per_step} makes it "
                f"{micro_batches}; remove one of the two"
            )
        return micro_batches
    below = prompts_per_step // at_once * at_once
    fixes = [f"set it to {' or '.join(str(n) for n in (below, below + at_once) if n)}"]
    per_device, rest = divmod(prompts_per_step, devices)
    if not rest:
        sizes = [n for n in range(1, min(per_device, batch_size) + 1) if per_device % n == 0]
        fixes.append(f"data.batch_size to {' or '.join(map(str, sizes[-3:]))}")
    else:
        counts = [n for n in range(1, devices) if prompts_per_step % (batch_size * n) == 0]
        fixes += [f"the number of devices to {' or '.join(map(str, counts[-3:]))}"] * bool(counts)
    raise ValueError(
        f"data.prompts_per_step is {prompts_per_step}, which is not a multiple of {at_once} (data.batch_size "
        f"{batch_size} x {devices} device{'s' * (devices > 1)}); {', or '.join(fixes)}"
    )


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
