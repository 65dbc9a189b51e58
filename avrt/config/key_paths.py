"""Maps a constructor's error to the config key that caused it.

Library code raises in its own terms ("temperature must be positive, got 0") and does not know the config file of its
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
        arguments: by name.
    """

    def __init__(self, kind: type, arguments: dict[str, Any], error: ValueError) -> None:
        super().__init__(one_line(error))
        self.kind = kind
        self.arguments = arguments


def instantiate(kind: type, *args: Any, **kwargs: Any) -> Any:
    """Build an object for jsonargparse, and keep the class with a refusal."""
    try:
        return kind(*args, **kwargs)
    except Refused:
        raise
    except ValueError as error:
        raise Refused(kind, kwargs, error) from error


def locate(refused: Refused, settings: dict[str, Any]) -> str:
    """The refusal with the key of the refused value in front, in its short form (without ``init_args``).

    Args:
        settings: the parsed settings as plain values.
    """
    line = str(refused).replace(".init_args", "")
    places = [(key, given) for key, kind, given in _built(settings) if kind is refused.kind]
    # Two arguments may be of one class: that with the refused values comes first.
    places.sort(key=lambda place: not _agree(place[1], refused.arguments))
    key = places[0][0] if places else ""
    section = key.partition(".")[0]
    if not key or line.startswith(f"{section}."):
        return line
    first = re.match(r"`?(\w+)`?", line)
    if first and first[1] in inspect.signature(refused.kind).parameters:
        return f"{key}.{first[1]}{line[first.end() :]}"
    return f"{key}: {line}"


def _agree(given: Any, arguments: dict[str, Any]) -> bool:
    """Whether plain values of a section are those of the arguments."""
    plain = {name: value for name, value in arguments.items() if isinstance(value, (str, int, float))}
    return isinstance(given, dict) and all(given.get(name) == value for name, value in plain.items())


def _built(settings: Any, key: str = "") -> Iterator[tuple[str, type, Any]]:
    """Key, class and arguments of everything that the settings build. A list's entry has its class's name as key."""
    if isinstance(settings, list):
        for entry in settings:
            name = entry.get("class_path", "").rpartition(".")[2] if isinstance(entry, dict) else ""
            yield from _built(entry, f"{key}.{name}")
    elif isinstance(settings, dict):
        kind = _imported(settings["class_path"]) if isinstance(settings.get("class_path"), str) else None
        arguments = (settings.get("init_args") or {}) if kind is not None else settings
        if kind is not None:
            yield key, kind, arguments
            yield from _dataclasses(kind, arguments, key)
        for name, value in arguments.items():
            yield from _built(value, f"{key}.{name}".removeprefix("."))


def _dataclasses(owner: type, arguments: Any, key: str) -> Iterator[tuple[str, type, Any]]:
    """Dataclasses among the arguments of a class, which are given by their fields alone."""
    for name, hint in get_type_hints(owner.__init__).items():  # type: ignore[misc]
        given = arguments.get(name) if isinstance(arguments, dict) else None
        for kind in (hint, *get_args(hint)):
            if isinstance(kind, type) and is_dataclass(kind):
                yield f"{key}.{name}", kind, given
                yield from _dataclasses(kind, given, f"{key}.{name}")


def _imported(class_path: str) -> type | None:
    module, _, name = class_path.rpartition(".")
    found = getattr(sys.modules.get(module), name, None)
    return found if isinstance(found, type) else None
