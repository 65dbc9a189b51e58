"""Trained and frozen weights: names, checks and fingerprints.

A checkpoint holds the trained weights only; frozen ones are loaded from `student.path` every time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from avrt.files.checksums import thread_count

SAMPLED_ELEMENTS = 256
"""Elements of each tensor in a fingerprint: enough to tell two models apart, cheap for any size."""

FULL_FINGERPRINT = "sha256:"
"""Starts a fingerprint of whole weights; those of earlier versions were of samples."""

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integer types by their size in bytes."""


def frozen_names(module: nn.Module) -> set[str]:
    """Names of the parameters that are not trained."""
    return {name for name, parameter in module.named_parameters() if not parameter.requires_grad}


def without_frozen(state_dict: Mapping[str, Any], module: nn.Module) -> dict[str, Any]:
    """A state dict without frozen parameters."""
    frozen = frozen_names(module)
    return {name: value for name, value in state_dict.items() if name not in frozen}


def check_saved_weights(saved: Iterable[str], module: nn.Module) -> None:
    """Refuse saved weights of another student; loading itself is not strict, since frozen weights are not saved.

    Args:
        saved: names of the saved weights.

    Raises:
        ValueError: a trained weight is missing, or there is one that the module does not have.
    """
    names = set(saved)
    expected = set(module.state_dict())
    missing = sorted(expected - names - frozen_names(module))
    unknown = sorted(names - expected)
    for what, found in (("lacks the trained weight", missing), ("has the unknown weight", unknown)):
        if found:
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            raise ValueError(
                f"the checkpoint {what} {found[0]}{more}; it may be of another student or have other lora settings"
            )


def weights_are_finite(module: nn.Module) -> bool:
    """Whether all trained weights of this device are finite."""
    # ZeRO-3 leaves a parameter empty and keeps this device's part of it beside it.
    trained = (getattr(p, "ds_tensor", p) for p in module.parameters() if p.requires_grad)
    return all(bool(torch.isfinite(weight).all()) for weight in trained)


def frozen_fingerprint(module: nn.Module) -> str:
    """A checksum of all bytes of all frozen parameters, with their names, shapes and types."""
    frozen = [(name, p.detach()) for name, p in sorted(module.named_parameters()) if not p.requires_grad]
    digest = hashlib.sha256()
    with ThreadPoolExecutor(thread_count()) as pool:
        for (name, weight), blocks in zip(frozen, pool.map(lambda named: _digest(named[1]), frozen), strict=True):
            digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
            digest.update(blocks)
    return f"{FULL_FINGERPRINT}{digest.hexdigest()}"


def has_frozen_weights(saved: str, module: nn.Module) -> bool:
    """Whether a checkpoint's fingerprint is that of a module's frozen weights."""
    if saved.startswith(FULL_FINGERPRINT):
        return saved == frozen_fingerprint(module)
    # A checkpoint of an earlier version: the first elements of every parameter.
    digest = hashlib.sha256()
    for name, parameter in sorted(module.named_parameters()):
        if not parameter.requires_grad:
            digest.update(f"{name} {tuple(parameter.shape)}".encode())
            digest.update(_sampled(parameter))
    return saved == digest.hexdigest()


def _digest(weight: Tensor) -> bytes:
    """SHA-256 of a tensor's bytes."""
    return hashlib.sha256(weight.cpu().contiguous().flatten().view(torch.uint8).numpy().data).digest()


def weights_fingerprint(module: nn.Module) -> str:
    """SHA-256 over the first elements of every parameter and a sum over all its bits: it sees any change of a weight.

    The sums are of integers, so they do not depend on the device or the order of addition.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(module.named_parameters()):
        total = int(parameter.detach().view(_INTEGERS[parameter.element_size()]).sum(dtype=torch.int64))
        digest.update(f"{name} {tuple(parameter.shape)} {total}".encode())
        digest.update(_sampled(parameter))
    return digest.hexdigest()


def _sampled(parameter: Tensor) -> bytes:
    return parameter.detach().flatten()[:SAMPLED_ELEMENTS].to("cpu", torch.float32).numpy().tobytes()
