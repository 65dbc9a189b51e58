"""What a checkpoint holds of a student: the trained weights only. Frozen ones come from `student.path` every time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

SAMPLED_ELEMENTS = 256
"""Of each frozen tensor that go into the fingerprint: enough to tell two models apart, cheap for any size."""


def frozen_names(module: nn.Module) -> set[str]:
    """Names of the parameters that are not trained."""
    return {name for name, parameter in module.named_parameters() if not parameter.requires_grad}


def without_frozen(state_dict: Mapping[str, Any], module: nn.Module) -> dict[str, Any]:
    """A state dict without frozen parameters."""
    frozen = frozen_names(module)
    return {name: value for name, value in state_dict.items() if name not in frozen}


def check_saved_weights(saved: Iterable[str], module: nn.Module) -> None:
    """Loading is not strict, since frozen weights are not saved; everything else must match all the same.

    Args:
        saved: names of the saved weights.

    Raises:
        ValueError: a trained weight is missing, or there is one that the module does not have.
    """
    names = set(saved)
    expected = set(module.state_dict())
    missing = sorted(expected - names - frozen_names(module))
    unknown = sorted(names - expected)
    for what, found in (("lacks the trained weight", missing), ("has a weight that the module has not:", unknown)):
        if found:
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            raise ValueError(
                f"the checkpoint {what} {found[0]}{more}; is it of another student or with other "
                "model.init_args.lora settings?"
            )


def weights_are_finite(module: nn.Module) -> bool:
    """Whether all trained weights of this device are numbers."""
    # ZeRO-3 leaves a parameter empty and keeps this device's part of it beside it.
    trained = (getattr(p, "ds_tensor", p) for p in module.parameters() if p.requires_grad)
    return all(bool(torch.isfinite(weight).all()) for weight in trained)


def frozen_fingerprint(module: nn.Module) -> str:
    """Tells whether two runs have the same frozen weights."""
    digest = hashlib.sha256()
    for name, parameter in sorted(module.named_parameters()):
        if not parameter.requires_grad:
            sampled = parameter.detach().flatten()[:SAMPLED_ELEMENTS].to("cpu", torch.float32)
            digest.update(f"{name} {tuple(parameter.shape)}".encode())
            digest.update(sampled.numpy().tobytes())
    return digest.hexdigest()
