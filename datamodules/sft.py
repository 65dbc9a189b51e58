"""Samples with traces, for supervised fine-tuning."""

from __future__ import annotations

from datamodules.base import ShardDataModule


class SFTDataModule(ShardDataModule):
    """Questions with traces to learn from; every training sample must have a trace."""

    with_targets = True
