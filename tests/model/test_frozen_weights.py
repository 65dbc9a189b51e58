"""Any changed byte of a frozen weight is seen when a run is resumed or exported."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch import nn

from avrt.model.trained_weights import frozen_fingerprint, has_frozen_weights


def module() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(100, 50), nn.Linear(50, 10, dtype=torch.bfloat16), nn.Linear(10, 3))
    layers[0].requires_grad_(False)
    layers[1].requires_grad_(False)
    return layers


@pytest.mark.parametrize(
    ("name", "element"), [("0.weight", 0), ("0.weight", 300), ("0.weight", 4999), ("1.weight", 499)]
)
def test_every_element_counts(name: str, element: int) -> None:
    changed = module()
    before = frozen_fingerprint(changed)
    assert before == frozen_fingerprint(module())
    assert has_frozen_weights(before, changed)
    with torch.no_grad():
        changed.get_parameter(name).view(-1)[element] += 0.01
    assert frozen_fingerprint(changed) != before
    assert not has_frozen_weights(before, changed)


def test_exchanged_elements_and_trained_weights() -> None:
    changed = module()
    before = frozen_fingerprint(changed)
    with torch.no_grad():
        changed[2].weight += 1
        assert frozen_fingerprint(changed) == before
        changed[0].weight[10] = changed[0].weight[10].flip(0)  # the sum of all bits stays
    assert frozen_fingerprint(changed) != before


def test_checkpoints_of_earlier_versions_state_a_sample() -> None:
    """By hand: names, shapes and the first 256 elements in float32."""
    old = hashlib.sha256()
    for name, weight in sorted(module().named_parameters()):
        if not weight.requires_grad:
            old.update(f"{name} {tuple(weight.shape)}".encode())
            old.update(weight.detach().flatten()[:256].float().numpy().tobytes())
    assert has_frozen_weights(old.hexdigest(), module())
    assert not has_frozen_weights("0" * 64, module())
