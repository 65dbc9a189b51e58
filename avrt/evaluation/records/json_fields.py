"""Data classes from JSON objects."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any


def from_dict(cls: type, values: Any, where: str) -> Any:
    """An instance of a data class from JSON values, refusing unknown and missing keys."""
    if not isinstance(values, dict):
        raise ValueError(f"{where}: must be a JSON object")
    fields = dataclasses.fields(cls)
    unknown: Sequence[str] = sorted(set(values) - {item.name for item in fields})
    if unknown:
        raise ValueError(f"{where}: has unknown keys {', '.join(unknown)}")
    missing = [
        item.name
        for item in fields
        if item.name not in values
        and item.default is dataclasses.MISSING
        and item.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f"{where}: lacks the keys {', '.join(missing)}")
    return cls(**values)
