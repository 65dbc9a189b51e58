"""Questions with gold answers, for GRPO."""

from __future__ import annotations

from datamodules.base import ShardDataModule


class GRPODataModule(ShardDataModule):
    """Questions with gold answers that rewards can check; traces in the shards are not read."""
