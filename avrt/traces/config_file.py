"""Reading a trace run's YAML file into its dataclasses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from avrt.config.dataclass_options import read_dataclass
from avrt.traces.config import TracesConfig, check_config


def load_config(files: Sequence[str | Path], settings: Sequence[str] = ()) -> TracesConfig:
    """Read and check a config.

    Args:
        files: YAML files; each is laid over the ones before it.
        settings: single values over all files, such as ``variant=audio_only`` or ``merge.max_concurrency=8``.

    Raises:
        UsageError: naming the key and the mend; see `read_dataclass`.
        ValueError: a value that cannot work; see `check_config`.
    """
    config = read_dataclass(TracesConfig, files, settings, "cli_configs/traces_avqa.yaml", "variant=audio_only")
    check_config(config)
    return config
