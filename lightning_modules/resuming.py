"""The settings that a resumed run must share with the run that wrote its checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

log = logging.getLogger(__name__)

NEUTRAL = frozenset({"student.path", "student.revision", "student.gradient_checkpointing", "optimizer.total_steps"})
"""Settings that may change: the student's folder may have moved (its frozen weights have a fingerprint), activations
may be kept or recomputed, and a run may be made longer."""


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


def changed_settings(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The differences between the settings of two runs, as `flat_settings` gives them; one text for each."""
    return [
        f"model.{key} ({saved.get(key)!r} then, {now.get(key)!r} now)"
        for key in sorted({*saved, *now})
        if saved.get(key) != now.get(key)
    ]


def changed_rewards(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The differences between the rewards of two runs, as `avrt.rewards.describe_rewards` gives them, in any order."""
    changed = []
    for name in sorted({*saved, *now}):
        then, new = saved.get(name), now.get(name)
        if then is None or new is None:
            changed.append(f"trainer.callbacks: reward {name!r} ({'new' if then is None else 'removed'})")
            continue
        changed += [
            f"trainer.callbacks: reward {name!r}: {key} ({then.get(key)!r} then, {new.get(key)!r} now)"
            for key in sorted({*then, *new})
            if then.get(key) != new.get(key)
        ]
    return changed


def check_unchanged(changed: Sequence[str], allowed: bool) -> None:
    """Refuse to resume with changes.

    Args:
        changed: one text for each.
        allowed: log them instead.

    Raises:
        ValueError: names all of them.
    """
    if not changed:
        return
    if not allowed:
        raise ValueError(
            f"cannot resume: changed since the checkpoint: {'; '.join(changed)}. Restore it, or set "
            "model.resume_with_changes to true"
        )
    log.warning("resumed with changes: %s", "; ".join(changed))
