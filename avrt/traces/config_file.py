"""Reading a trace run's YAML file into its dataclasses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from avrt.config.dataclass_options import read_dataclass
from avrt.traces.config import TracesConfig, check_config


def load_config(files: Sequence[str | Path], options: Sequence[str] = ()) -> TracesConfig:
    """Read and check a config.

    Args:
        files: YAML files; each one overrides those before it.
        options: words of the command line that override the files, such as ``--merge.max_concurrency=8``.

    Raises:
        UsageError: naming the key and the mend; see `read_dataclass`.
        ValueError: a value that cannot work; see `check_config`.
    """
    config = read_dataclass(TracesConfig, files, options, "cli_configs/traces_avqa.yaml")
    check_config(config)
    return config
