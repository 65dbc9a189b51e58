"""The wheels of ``make gpu-wheels``: with what a machine has, everything that they need."""

from __future__ import annotations

import importlib.util
from importlib.metadata import PackageNotFoundError, requires
from types import ModuleType

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.gpu.runner import ROOT

THERE = ("torch", "torchvision", "torchaudio", "transformers", "numpy", "lightning")
"""What the machine has, with what these need."""

LEFT_OUT = ("pandas", "pyarrow")
"""Of TRL's, for their size."""


def wheels() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_wheels", ROOT / "tools" / "gpu_wheels.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def needs(name: str) -> set[str]:
    """The packages that a package needs itself, on Linux, without extras."""
    try:
        found = [Requirement(text) for text in requires(name) or ()]
    except PackageNotFoundError:
        return set()
    return {canonicalize_name(r.name) for r in found if r.marker is None or r.marker.evaluate({"extra": ""})}


def closure(names: set[str]) -> set[str]:
    found: set[str] = set()
    while names:
        name = names.pop()
        found.add(name)
        names |= needs(name) - found
    return found


def test_nothing_is_missing() -> None:
    module = wheels()
    carried = {canonicalize_name(name) for name in (*module.PACKAGES, *module.BUILT)}
    assert closure(set(carried)) - carried - closure(set(THERE)) <= closure(set(LEFT_OUT))
