"""A callback that compares DeepSpeed's gradient sums with those of the micro-batches, and counts what crosses.

On the CPU "device" and host memory are one; which tensors would be in host memory is known from DeepSpeed's buffers.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.utils import safe_get_full_grad
from lightning.pytorch import Callback
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class GradientSums(Callback):
    """Writes a line per optimizer step and rank; see `compare`."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.gradients: dict[str, list[Tensor]] = defaultdict(list)

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self.optimizer = trainer.strategy.deepspeed_engine.optimizer
        self.weights = {n: p for n, p in module.named_parameters() if p.requires_grad}
        for name, weight in self.weights.items():
            weight.register_hook(lambda gradient, name=name: self.gradients[name].append(gradient.detach().clone()))
        self.copies = HostCopies(self.optimizer)
        self.copies.__enter__()
        take_step = self.optimizer.step

        def step(*args: Any, **kwargs: Any) -> Any:
            before = self.copies.take()
            with self.copies.paused():
                line = self.compare()
            result = take_step(*args, **kwargs)
            line |= {"crossed": {"backward": before, "step": self.copies.take()}, "skipped": self.optimizer.overflow}
            with (self.folder / f"sums_{trainer.global_rank}.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
            self.gradients.clear()
            return result

        self.optimizer.step = step

    def on_train_end(self, trainer: Any, module: Any) -> None:
        self.copies.__exit__(None, None, None)

    def compare(self) -> dict[str, Any]:
        """The largest difference of a sum from that of the micro-batches, as a share of a weight's largest gradient.

        ``exact``: summed in float64. ``rounded``: rounded to bfloat16 after every micro-batch. ``rounding``: between
        these two.
        """
        differences = {"exact": 0.0, "rounded": 0.0, "rounding": 0.0}
        micro_batches = 0
        for name, weight in self.weights.items():
            parts = [mean_over_ranks(part) for part in self.gradients[name]]
            if not parts:
                continue
            micro_batches = max(micro_batches, len(parts))
            exact = torch.stack(parts).double().sum(0)
            rounded = parts[0]
            for part in parts[1:]:
                rounded = rounded + part
            found = safe_get_full_grad(weight)
            size = exact.abs().max().clamp(min=1e-300)
            for key, pair in (
                ("exact", (found, exact)),
                ("rounded", (found, rounded)),
                ("rounding", (rounded, exact)),
            ):
                difference = (pair[0].double() - pair[1].double()).abs().max() / size
                differences[key] = max(differences[key], float(difference))
        trained = sum(weight.numel() for weight in self.weights.values())
        return {"micro_batches": micro_batches, "trained": trained, **differences}


def mean_over_ranks(gradient: Tensor) -> Tensor:
    """As DeepSpeed reduces a micro-batch's gradient: every rank's is divided, and the sum rounded, in its own type."""
    world = dist.get_world_size()
    if world == 1:
        return gradient
    parts = [torch.empty_like(gradient) for _ in range(world)]
    dist.all_gather(parts, gradient)
    total = parts[0] / world
    for part in parts[1:]:
        total = total + part / world
    return total


class HostCopies(TorchDispatchMode):
    """Counts the bytes of copies between tensors of which one would be in host memory and the other on the device."""

    def __init__(self, optimizer: Any) -> None:
        super().__init__()
        self.optimizer = optimizer
        self.bytes = 0
        self.counting = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.copy_.default and self.counting and self.optimizer.cpu_offload:
            host = {tensor.untyped_storage().data_ptr() for tensor in self.host_tensors()}
            sides = [tensor.untyped_storage().data_ptr() in host for tensor in args[:2]]
            self.bytes += args[0].nbytes if sum(sides) == 1 else 0
        return func(*args, **(kwargs or {}))

    def host_tensors(self) -> Iterator[Tensor]:
        optimizer = self.optimizer
        for masters in optimizer.single_partition_of_fp32_groups:
            yield masters
            if masters.grad is not None:
                yield masters.grad
        yield from optimizer.param_buffer_of_bit16_for_cpu_offload_groups
        yield from optimizer.accumulated_grads_in_cpu.values()

    def take(self) -> int:
        """Bytes since the last call."""
        now, self.bytes = self.bytes, 0
        return now

    def paused(self) -> Any:
        return _Paused(self)


class _Paused:
    def __init__(self, copies: HostCopies) -> None:
        self.copies = copies

    def __enter__(self) -> None:
        self.copies.counting = False

    def __exit__(self, *error: object) -> None:
        self.copies.counting = True
