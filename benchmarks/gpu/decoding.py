"""Tokens per second of decoding, against transformers' `generate` and against the bounds of launches and bandwidth.

The seconds of decoding are those of a rollout minus those of a rollout of one token, which is almost all prefill.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from avrt.planning.cost import plain_launches
from avrt.rollout.builtin import TransformersRollout
from benchmarks.gpu.clock import free, measure
from benchmarks.gpu.hardware import device_bandwidth, seconds_per_launch
from benchmarks.gpu.models import (
    decoding_modes,
    plain_language_model,
    random_prompts,
    sampling,
    seeds,
    student_config,
    text_policy,
)
from benchmarks.gpu.shapes import Row, Shape
from benchmarks.measure import alternate


class Kernels(TorchDispatchMode):
    """Counts operators that start a kernel: all but those that return views or empty tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returns = func._schema.returns
        view = any(r.alias_info is not None and not r.alias_info.is_write for r in returns)
        empty = func.name().startswith(("aten::empty", "aten::new_empty", "aten::detach"))
        self.count += not (view or empty)
        return func(*args, **(kwargs or {}))


def run(shape: Shape, device: torch.device, size: str) -> Iterator[Row]:
    """A row per contestant, then one with the bounds."""
    tokens, count, group, length = shape.decoding
    model = text_policy(shape, size, device, torch.bfloat16)
    prompts = random_prompts(model, tokens, count)
    ids = torch.stack([prompt.input_ids for prompt in prompts])
    peer = plain_language_model(model)
    what = f"{size}, {count} prompts of {tokens}, G {group}, {length} tokens"

    def ours(mode: str, steps: int) -> None:
        TransformersRollout(model, sampling(steps, mode), ()).generate(prompts, group, seeds(prompts))

    def theirs(steps: int) -> None:
        peer.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            num_return_sequences=group,
            do_sample=True,
            top_k=0,
            top_p=1.0,
            temperature=1.0,
            min_new_tokens=steps,
            max_new_tokens=steps,
        )

    kernels = kernels_of_a_step(lambda steps: ours("plain", steps))
    read = bytes_of_a_step(model, tokens, count, group, length)
    yield {"what": what, "who": "a plain step", "kernels": kernels, "read_gb": read / 1e9}

    rates: dict[str, float] = {}
    contestants: dict[str, Callable[[int], None]] = {}
    for mode, missing in decoding_modes(device):
        if missing is not None:
            yield {"what": what, "who": mode, "skipped": missing}
        else:
            contestants[mode] = lambda steps, mode=mode: ours(mode, steps)  # type: ignore[misc]
    contestants["generate"] = theirs
    for name, work in contestants.items():
        try:
            row = _timed(name, work, device, length, shape.rounds)
        except torch.OutOfMemoryError as error:  # its copies of the prompts' cache may not fit
            yield {"what": what, "who": name, "skipped": str(error).splitlines()[0]}
            free(device)
            continue
        rates[name] = row["step_ms"] / 1e3
        yield {"what": what, **row, "tokens_per_second": count * group / rates[name]}

    bandwidth, launch = device_bandwidth(shape.copy_bytes, device), seconds_per_launch(device)
    for who, seconds in (("bound of bandwidth", read / bandwidth), ("bound of launches", kernels * launch)):
        yield {"what": what, "who": who, "step_ms": 1e3 * seconds, "tokens_per_second": count * group / seconds}
    planned = plain_launches(student_config(shape, size), model.text_model.config.num_hidden_layers)
    yield {"hardware": _hardware(rates, planned, read, bandwidth)}


def _timed(name: str, work: Callable[[int], None], device: torch.device, length: int, rounds: int) -> Row:
    """Seconds of a whole rollout and of the prefill, in turn."""
    work(length)  # the same for all; graphs live as long as a rollout, so capturing them is part of every one
    times = alternate(
        {
            "whole": lambda: measure(device, lambda: work(length)).seconds,
            "prefill": lambda: measure(device, lambda: work(1)).seconds,
        },
        rounds,
        warmup=0,
    )
    whole, prefill = times["whole"].median, times["prefill"].median
    return {
        "who": name,
        "rollout_seconds": whole,
        "prefill_seconds": prefill,
        "step_ms": 1e3 * max(whole - prefill, 1e-9) / (length - 1),
    }


def _hardware(rates: dict[str, float], planned: int, read: float, bandwidth: float) -> Row:
    """What `plan` takes from it: the cost of a launch if plain decoding waits for launches, and the bandwidth that
    decoding reaches where it does not. `planned` is the number of launches that `plan` counts."""
    found: Row = {}
    plain, best = rates.get("plain"), min((rates[name] for name in rates if name != "generate"), default=None)
    if plain is not None and plain > 2 * read / bandwidth:
        found["launch_us"] = 1e6 * plain / planned
    if best is not None and ("graphs" in rates or "launch_us" not in found):
        found["decoding_bandwidth_gb"] = read / best / 1e9
    return found


def kernels_of_a_step(rollout: Callable[[int], None]) -> int:
    """Kernels of one decoding step, from the difference of two rollouts."""
    counts = []
    for steps in (2, 3):
        with Kernels() as kernels:
            rollout(steps)
        counts.append(kernels.count)
    return counts[1] - counts[0]


def bytes_of_a_step(model: Any, tokens: int, prompts: int, group: int, length: int) -> float:
    """Bytes that a decoding step must read: weights of layers and head, prompts once, half of the responses."""
    width = model.head_weight.element_size()
    layers = sum(p.numel() for name, p in model.text_model.named_parameters() if "embed_tokens" not in name)
    config = model.text_model.config
    head_size = config.hidden_size // config.num_attention_heads
    per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * head_size * width
    cached = prompts * (tokens + group * length / 2)
    return (layers + model.head_weight.numel()) * width + cached * per_token
