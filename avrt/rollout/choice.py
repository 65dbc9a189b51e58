"""The rollout engine that a config chooses: ``model.rollout``."""

from __future__ import annotations

import importlib
from typing import Literal

from avrt.rollout.engine import EngineConfig

EngineName = Literal["builtin", "vllm"]

CLASSES = {"vllm": "avrt.rollout.vllm.VLLM"}
"""Engines that have a short name."""


def engine_config(choice: EngineConfig | EngineName) -> EngineConfig | None:
    """The engine's settings, with their defaults for a short name; None for the built-in engine."""
    if isinstance(choice, EngineConfig):
        return choice
    if choice == "builtin":
        return None
    module, _, name = CLASSES[choice].rpartition(".")
    config: EngineConfig = getattr(importlib.import_module(module), name)()
    return config
