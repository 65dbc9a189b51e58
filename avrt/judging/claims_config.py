"""The settings of ``avrt claims``, one YAML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from avrt.config.dataclass_options import read_dataclass
from avrt.judging.config import ReaderConfig
from avrt.servers.config import under_key


@dataclass
class ClaimsConfig:
    """The settings of ``avrt claims``.

    Attributes:
        judge: the servers. The judge only reads; no media are sent.
        max_failed_share: stop when more than this share of the calls fail.
    """

    judge: ReaderConfig
    max_failed_share: float = 0.5

    def check(self) -> None:
        """Refuse settings that cannot work, before anything is called.

        Raises:
            ValueError: names the key and how to fix it.
        """
        if not 0 < self.max_failed_share <= 1:
            raise ValueError(f"max_failed_share: must be above 0 and at most 1, got {self.max_failed_share}")
        with under_key("judge"):
            self.judge.check()


def load_claims_config(paths: Sequence[str | Path], options: Sequence[str] = ()) -> ClaimsConfig:
    """Read and check a config; arguments and errors are those of `avrt.judging.config.load_config`."""
    config = read_dataclass(ClaimsConfig, paths, options, "cli_configs/claims.yaml")
    config.check()
    return config
