"""Reading a trace run's YAML file into its dataclasses."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from jsonargparse import ArgumentParser

from avrt.config_errors import UsageError, distil
from avrt.config_scan import scan_file
from avrt.traces.config import TracesConfig, check_config


def load_config(files: Sequence[str | Path], settings: Sequence[str] = ()) -> TracesConfig:
    """Read and check a config.

    Args:
        files: YAML files; each is laid over the ones before it.
        settings: single values over all files, such as ``variant=audio_only`` or ``merge.max_concurrency=8``.

    Raises:
        UsageError: naming the key and the mend. Values of unknown keys are not repeated: they may be secrets.
        ValueError: a value that cannot work; see `check_config`.
    """
    if not files:
        raise UsageError("--config: expects a file, for example --config cli_configs/traces_avqa.yaml")
    arguments: list[str] = []
    for file in files:
        scan_file(Path(file), (), ())
        arguments += ["--config", str(file)]
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise UsageError("--set: expects KEY=VALUE, for example --set variant=audio_only")
        arguments.append(f"--{name}={value}")
    parser = ArgumentParser(exit_on_error=False, default_env=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(TracesConfig)
    try:
        parsed = parser.parse_args(arguments)
        built = parser.instantiate_classes(parsed)
    except argparse.ArgumentError as error:
        raise UsageError(distil(str(error), lambda name: _keys(TracesConfig) if not name else ())) from error
    values = {field.name: built[field.name] for field in fields(TracesConfig)}
    config = TracesConfig(**values)
    check_config(config)
    return config


def _keys(kind: type, prefix: str = "") -> list[str]:
    """All dotted keys of a dataclass and of the dataclasses in it."""
    hints: dict[str, Any] = get_type_hints(kind)
    names: list[str] = []
    for field in fields(kind):
        names.append(prefix + field.name)
        if is_dataclass(hints[field.name]):
            names += _keys(hints[field.name], f"{prefix}{field.name}.")
    return names
