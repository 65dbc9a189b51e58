"""What `avrt plan` computes for the runs that are measured here."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from avrt.planning.dry_run import StepTrace, trace_memory
from avrt.planning.memory import DeviceMemory, device_memory
from avrt.planning.settings import RunSettings
from avrt.planning.shapes import count_parameters
from benchmarks.gpu.models import published_name
from benchmarks.gpu.shapes import Shape

GIB = 2**30
USABLE = 0.95
"""Share of the memory that a part may plan to use."""

OFFLOADED_BYTES = 18
"""Host memory per trained weight: float32 weight, gradient and two moments, and the bfloat16 weight on its way."""

_NO_ACTIVATIONS: dict[str, Any] = {"activation_bytes": 0, "trained": 0}


def grpo_settings(shape: Shape, size: str, prompt: int, group: int, length: int, **changes: Any) -> RunSettings:
    """A GRPO step on one device with prompts and responses of one length, micro-batches of one prompt."""
    values: dict[str, Any] = {
        "task": "grpo",
        "student": published_name(size),
        "devices": 1,
        "nodes": 1,
        "weight_bytes": 2,
        "stage": 0,
        "offload": False,
        "batch_size": 1,
        "accumulate": shape.prompts,
        "gradient_checkpointing": True,
        "chunk_rows": 128,
        "prompt_tokens": prompt,
        "completion_tokens": length,
        "mean_completion_tokens": length,
        "longest_tokens": length,
        "grad_accum_dtype": "fp32",  # the strategies' default
        "num_generations": group,
        "reference": "device",
        "kv_cache_tokens": 10**9,
        "encoder_batch_tokens": 4096,
        "reduce_bucket_size": 200_000_000,
        "overlap_comm": True,
        **changes,
    }
    known = {field.name for field in fields(RunSettings)}
    return RunSettings(**{name: value for name, value in values.items() if name in known})


def planned(config: Any, settings: RunSettings) -> DeviceMemory:
    """`plan`'s bytes on the device, without the driver's context."""
    return device_memory(config, settings, count_parameters(config), trace_memory(config, settings), 0)


def too_large(config: Any, settings: RunSettings, device: torch.device) -> str | None:
    """Why a run does not fit this machine, or None. Activations are left out: others decide."""
    parameters = count_parameters(config)
    trace = StepTrace(**{**_NO_ACTIVATIONS, "trained": parameters.language_model})
    needed = device_memory(config, settings, parameters, trace, 0).peak
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        if needed > total * USABLE:
            return f"needs {needed / GIB:.0f} GiB on the device (computed), which has {total / GIB:.0f}"
    if settings.offload:
        on_host, free = OFFLOADED_BYTES * parameters.language_model, _host_bytes()
        if on_host > free * USABLE:
            return f"needs {on_host / GIB:.0f} GiB of host memory (computed), of which {free / GIB:.0f} are free"
    return None


def _host_bytes() -> int:
    """Host memory that is free or can be freed (Linux)."""
    for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 10**12
