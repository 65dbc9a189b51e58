"""``demo:`` paths in configs: ``demo:shards/train``, ``demo:shards/val``, ``demo:student``, ``demo:sft``."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

DEMO_PREFIX = "demo:"


def find_demo_paths(config: Any) -> list[tuple[Any, Any, str]]:
    """Every ``demo:`` value of a parsed config, as (container, key, part); containers are mappings, lists, namespaces.

    `config` is what jsonargparse parsed, before anything is instantiated.
    """
    if isinstance(config, list):
        entries: Any = list(enumerate(config))
    elif isinstance(config, MutableMapping):
        entries = list(config.items())
    elif hasattr(config, "__dict__"):
        config = vars(config)
        entries = list(config.items())
    else:
        return []
    found = []
    for key, value in entries:
        if isinstance(value, str):
            if value.startswith(DEMO_PREFIX):
                found.append((config, key, value.removeprefix(DEMO_PREFIX)))
        else:
            found += find_demo_paths(value)
    return found


def resolve_demo_paths(config: Any) -> None:
    """Replace every ``demo:`` value of a parsed config, in place, by a path in the cache, built first if need be.

    Raises:
        ValueError: a path names no part of the demo, or the part cannot be built.
        OSError: the cache cannot be written.
    """
    found = find_demo_paths(config)
    if not found:
        return
    from avrt.demo.prepare import DemoCache

    cache = DemoCache()
    for container, key, part in found:
        container[key] = str(cache.get(part))
