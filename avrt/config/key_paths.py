"""The config key of a value that a class refuses when it is built.

Library code raises in its own terms ("temperature must be positive, is 0") and does not know the config file of its
caller. The key is put in front here, where classes are built from a config.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any, get_args, get_type_hints

from avrt.config.errors import one_line


class Refused(ValueError):
    """A class refused its arguments.

    Attributes:
        kind: the class.
    """

    def __init__(self, kind: type, error: ValueError) -> None:
        super().__init__(one_line(error))
        self.kind = kind


def instantiate(kind: type, *args: Any, **kwargs: Any) -> Any:
    """Build an object for jsonargparse, and keep the class with a refusal."""
    try:
        return kind(*args, **kwargs)
    except Refused:
        raise
    except ValueError as error:
        raise Refused(kind, error) from error


def locate(refused: Refused, settings: dict[str, Any]) -> str:
    """The refusal with the key of the refused value in front, in its short form (without ``init_args``).

    Args:
        settings: the parsed settings as plain values.
    """
    line = str(refused).replace(".init_args", "")
    key = next((key for key, kind in _built(settings) if kind is refused.kind), "")
    section = key.partition(".")[0]
    if not key or line.startswith(f"{section}."):
        return line
    first = re.match(r"`?(\w+)`?", line)
    if first and first[1] in inspect.signature(refused.kind).parameters:
        return f"{key}.{first[1]}{line[first.end() :]}"
    return f"{key}: {line}"


def _built(settings: Any, key: str = "") -> Iterator[tuple[str, type]]:
    """Key and class of everything that the settings build. An entry of a list has its class's name as key."""
    if isinstance(settings, list):
        for entry in settings:
            name = entry.get("class_path", "").rpartition(".")[2] if isinstance(entry, dict) else ""
            yield from _built(entry, f"{key}.{name}")
    elif isinstance(settings, dict):
        kind = _imported(settings["class_path"]) if isinstance(settings.get("class_path"), str) else None
        if kind is not None:
            yield key, kind
            yield from _dataclasses(kind, key)
        for name, value in (settings.get("init_args") or {} if kind is not None else settings).items():
            yield from _built(value, f"{key}.{name}".removeprefix("."))


def _dataclasses(owner: type, key: str) -> Iterator[tuple[str, type]]:
    """Dataclasses among the arguments of a class, which are given by their fields alone."""
    for name, hint in get_type_hints(owner.__init__).items():  # type: ignore[misc]
        for kind in (hint, *get_args(hint)):
            if isinstance(kind, type) and is_dataclass(kind):
                yield f"{key}.{name}", kind
                yield from _dataclasses(kind, f"{key}.{name}")


def _imported(class_path: str) -> type | None:
    module, _, name = class_path.rpartition(".")
    found = getattr(sys.modules.get(module), name, None)
    return found if isinstance(found, type) else None
