"""What a run that goes on from a checkpoint must share with the run that wrote it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

log = logging.getLogger(__name__)

NEUTRAL = frozenset({"student.path", "student.revision", "student.gradient_checkpointing", "optimizer.total_steps"})
"""Settings that may change: the same student may lie elsewhere (its frozen weights have a fingerprint), activations may
be kept or not, and a run may be made longer."""


def flat_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values by dotted key, without those that may change."""
    return {key: value for key, value in _flatten("", settings) if key not in NEUTRAL}


def _flatten(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flatten(f"{prefix}.{key}" if prefix else key, inner)
    else:
        yield prefix, tuple(value) if isinstance(value, list) else value


def check_unchanged(saved: Mapping[str, Any], now: Mapping[str, Any], allowed: bool) -> None:
    """Compare the settings of two runs, as `flat_settings` gives them.

    Args:
        allowed: say what has changed, and go on.

    Raises:
        ValueError: a setting has changed; names all of them.
    """
    changed = [
        f"model.init_args.{key} ({saved.get(key)!r} then, {now.get(key)!r} now)"
        for key in sorted({*saved, *now})
        if saved.get(key) != now.get(key)
    ]
    if not changed:
        return
    if not allowed:
        raise ValueError(
            f"cannot resume: changed since the checkpoint: {'; '.join(changed)}. Restore it, or set "
            "model.init_args.resume_with_changes to true"
        )
    log.warning("resumed with changes: %s", "; ".join(changed))
