"""Settings of a command that are a dataclass, from YAML files and the command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from jsonargparse import ArgumentParser

from avrt.config.errors import UsageError, distil
from avrt.config.scan import scan_file, scan_values

T = TypeVar("T")


def read_dataclass(kind: type[T], files: Sequence[str | Path], options: Sequence[str], example: str) -> T:
    """Read a config; values are checked for their types only.

    Args:
        kind: the dataclass; its fields may be dataclasses themselves.
        files: YAML files; each one overrides those before it.
        options: words of the command line that override the files: ``--merge.max_concurrency=8``.
        example: a config file to suggest when `files` is empty.

    Raises:
        UsageError: names the key and says how to fix it. Values of unknown keys are not repeated: they may be secrets.
    """
    if not files:
        raise UsageError(f"--config: expects a file, for example --config {example}")
    for file in files:
        scan_file(Path(file))
    scan_values(options)
    parser = ArgumentParser(exit_on_error=False, default_env=False, allow_abbrev=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(kind)
    words = [word for file in files for word in ("--config", str(file))]
    try:
        built = parser.instantiate_classes(parser.parse_args([*words, *options]))
    except argparse.ArgumentError as error:
        raise UsageError(distil(str(error), lambda name: _keys(kind) if not name else (), example)) from error
    return kind(**{field.name: built[field.name] for field in fields(kind)})  # type: ignore[arg-type]


def _keys(kind: type, prefix: str = "") -> list[str]:
    """All dotted keys of a dataclass and of the dataclasses in it."""
    hints: dict[str, Any] = get_type_hints(kind)
    names: list[str] = []
    for field in fields(kind):
        names.append(prefix + field.name)
        if is_dataclass(hints[field.name]):
            names += _keys(hints[field.name], f"{prefix}{field.name}.")
    return names
