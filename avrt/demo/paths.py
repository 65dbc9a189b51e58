"""``demo:`` values in a run's settings: ``demo:shards/train``, ``demo:shards/val``, ``demo:student``, ``demo:sft``.

Only the command line calls this module, in a step of its own between parsing a config and starting the run. In the
layers below, a ``demo:`` value has become the path of a folder.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, MutableMapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

PREFIX = "demo:"

STUDENTS = ("student", "sft")


def build_demo_paths(settings: Any) -> None:
    """Replace every ``demo:`` value by a folder in the cache, which is built first if it is not there.

    Args:
        settings: parsed settings (mapping, list, namespace or data class), changed in place.

    Raises:
        ValueError: a value names no part of the demo, or the part cannot be built.
        OSError: the cache cannot be written.
    """
    _replace(settings, lambda part: _cache().get(part))


def locate_demo_paths(settings: Any, shapes: Path) -> None:
    """Replace every ``demo:`` value by its folder in the cache, and build nothing.

    Args:
        settings: as for `build_demo_paths`.
        shapes: in place of a student that is not there, this folder; it gets the student's ``config.json``.
    """

    def locate(part: str) -> Path:
        folder = _cache().path(part)
        if part not in STUDENTS or (folder / "config.json").is_file():
            return folder
        from avrt.demo.student import write_shapes

        write_shapes(shapes)
        return shapes

    _replace(settings, locate)


def _cache() -> Any:
    from avrt.demo.prepare import DemoCache

    return DemoCache()


def _replace(value: Any, folder_of: Callable[[str], Path]) -> None:
    if isinstance(value, list):
        entries: list[tuple[Any, Any]] = list(enumerate(value))
    elif isinstance(value, MutableMapping):
        entries = list(value.items())
    elif isinstance(value, Namespace) or (is_dataclass(value) and not isinstance(value, type)):
        value = vars(value)
        entries = list(value.items())
    else:
        return
    for key, child in entries:
        if isinstance(child, str) and child.startswith(PREFIX):
            value[key] = str(folder_of(child.removeprefix(PREFIX)))
        else:
            _replace(child, folder_of)
