"""Questions with gold answers, for GRPO."""

from __future__ import annotations

from datamodules.base import ShardDataModule


class GRPODataModule(ShardDataModule):
    """Questions whose answers rewards can check; traces, if there are any, are not read."""
