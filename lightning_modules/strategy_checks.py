"""Strategies under which these students cannot be trained, or not sampled from."""

from __future__ import annotations

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, SingleDeviceStrategy, Strategy

from avrt.config.strategies import CHOICES
from lightning_modules.strategy import AVRTDeepSpeedStrategy


def check_strategy(strategy: Strategy) -> None:
    """Refuse strategies that train these students wrongly; `avrt.config.strategies` says why.

    Raises:
        ValueError: names the key and the strategies to choose from.
    """
    if not isinstance(strategy, (SingleDeviceStrategy, DDPStrategy)) or (
        isinstance(strategy, DeepSpeedStrategy) and not isinstance(strategy, AVRTDeepSpeedStrategy)
    ):
        raise ValueError(
            f"trainer.strategy: {type(strategy).__name__} is not supported for these students; set it to one of "
            f"{CHOICES}"
        )


def check_zero3(samples_in_training: bool, trainer: Trainer, has_validation: bool) -> None:
    """Refuse sampling under ZeRO-3.

    Every device must run the same layers in the same order under it, since each gathers the weights of a layer from
    the others. Sampling runs for as long as a device's longest response.

    Args:
        samples_in_training: the training step samples responses (GRPO).
        trainer: the run's trainer.
        has_validation: there is a validation set.

    Raises:
        ValueError: names the key and says how to fix it.
    """
    if samples_in_training:
        raise ValueError(
            "trainer.strategy.stage: 3 splits the weights over devices, and GRPO samples a different number of tokens "
            "on each, so they would wait for each other forever; set it to 2 (the 7B student fits: see python -m avrt "
            "plan)"
        )
    if has_validation and trainer.limit_val_batches:
        raise ValueError(
            "trainer.strategy.stage: 3 cannot validate, since devices would sample answers of different length; set "
            "trainer.limit_val_batches to 0 and validate the exported model, or set the stage to 2"
        )
