"""The prompts of one optimizer step over all devices, and the gradient accumulation that follows from them."""

from __future__ import annotations


def accumulation(prompts_per_step: int, batch_size: int, devices: int) -> int:
    """Micro-batches of one optimizer step.

    Args:
        prompts_per_step: prompts of one optimizer step over all devices (`data.prompts_per_step`).
        batch_size: prompts per device and micro-batch (`data.batch_size`).
        devices: over all machines.

    Raises:
        ValueError: `batch_size` x `devices` does not divide `prompts_per_step`; names the numbers that would.
    """
    at_once = batch_size * devices
    if prompts_per_step % at_once == 0:
        return prompts_per_step // at_once
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
