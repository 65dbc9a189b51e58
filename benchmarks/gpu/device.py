"""The device and the versions of the packages; tells whether there is a GPU."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

PACKAGES = ("transformers", "lightning", "deepspeed", "triton", "torchvision", "trl", "flash-attn")


def run(shape: object, device: object) -> Iterator[dict[str, Any]]:
    """One row ``device``; `shape` and `device` do not count."""
    cuda = torch.cuda.is_available()
    found: dict[str, Any] = {"name": "CPU", "memory_gb": None, "cuda_available": cuda}
    if cuda:
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "name": properties.name,
            "memory_gb": round(properties.total_memory / 1e9, 1),
            "capability": ".".join(map(str, torch.cuda.get_device_capability(0))),
        }
    found |= {"torch": torch.__version__, "cuda": torch.version.cuda, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    yield {"device": found}
