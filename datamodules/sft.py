"""Samples with traces, for supervised fine-tuning."""

from __future__ import annotations

from datamodules.base import ShardDataModule


class SFTDataModule(ShardDataModule):
    """Questions and the traces to learn from; every training sample must carry one."""

    with_targets = True
