"""YAML files and single settings of a command into the dataclass that holds its settings."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from jsonargparse import ArgumentParser

from avrt.config.errors import UsageError, distil
from avrt.config.scan import scan_file

T = TypeVar("T")


def read_dataclass(
    kind: type[T], files: Sequence[str | Path], settings: Sequence[str], example_file: str, example_setting: str
) -> T:
    """Read a config; values are checked for their types only.

    Args:
        kind: the dataclass; its fields may be dataclasses themselves.
        files: YAML files; each is laid over the ones before it.
        settings: single values over all files, such as ``merge.max_concurrency=8``.
        example_file, example_setting: what an error suggests where one is missing or has another form.

    Raises:
        UsageError: naming the key and the mend. Values of unknown keys are not repeated: they may be secrets.
    """
    if not files:
        raise UsageError(f"--config: expects a file, for example --config {example_file}")
    arguments: list[str] = []
    for file in files:
        scan_file(Path(file), (), ())
        arguments += ["--config", str(file)]
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise UsageError(f"--set: expects KEY=VALUE, for example --set {example_setting}")
        arguments.append(f"--{name}={value}")
    parser = ArgumentParser(exit_on_error=False, default_env=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(kind)
    try:
        built = parser.instantiate_classes(parser.parse_args(arguments))
    except argparse.ArgumentError as error:
        raise UsageError(distil(str(error), lambda name: _keys(kind) if not name else ())) from error
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
