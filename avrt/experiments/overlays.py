"""Settings as nested mappings: merging, placeholders, and the callbacks of a config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from avrt.config.errors import UsageError


def merged(first: Mapping[str, Any], *others: Mapping[str, Any]) -> dict[str, Any]:
    """Settings in which those of later mappings replace those of earlier ones; mappings merge, lists are replaced."""
    result = dict(first)
    for other in others:
        for key, value in other.items():
            below = result.get(key)
            result[key] = merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return result


def filled(value: Any, places: Mapping[str, str]) -> Any:
    """A setting with its placeholders filled in, ``{traces}`` by ``places["traces"]``; other braces stay."""
    if isinstance(value, Mapping):
        return {key: filled(child, places) for key, child in value.items()}
    if isinstance(value, list):
        return [filled(child, places) for child in value]
    if isinstance(value, str):
        for name, text in places.items():
            value = value.replace(f"{{{name}}}", text)
    return value


def without_callbacks(config: Path, removed: Sequence[str], added: Sequence[Any]) -> list[dict[str, Any]]:
    """The callbacks of a config file but those of some classes, and further ones.

    A config's list of callbacks can only be replaced or appended to, so leaving one out means naming the others.

    Args:
        config: the file.
        removed: class paths to leave out.
        added: callbacks that an overlay appends (its ``callbacks+``).

    Raises:
        UsageError: the config has no callback of such a class.
    """
    settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    callbacks: list[dict[str, Any]] = list((settings.get("trainer") or {}).get("callbacks") or [])
    listed = [callback["class_path"] for callback in callbacks]
    for name in removed:
        if name not in listed:
            raise UsageError(f"without_callbacks: {config} has no {name}; it has {', '.join(listed) or 'none'}")
    return [callback for callback in callbacks if callback["class_path"] not in removed] + list(added)
