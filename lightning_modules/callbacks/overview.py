"""A TensorBoard page of charts with several curves each."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

CHARTS = {
    "Progress": {
        "reward": ["^reward$", "^rewards/.*/mean$"],
        "accuracy on training questions": ["^accuracy/pass@"],
        "validation": ["^val/"],
        "accuracy on new and repeated prompts": ["^accuracy/(new|repeated_.*)$"],
        "loss": ["^loss$"],
    },
    "Health": {
        "answer parsing": ["^answers/"],
        "advantage by reward": ["^advantage_share/"],
        "groups without signal": [
            "^frac_reward_zero_std$",
            "^frac_zero_std/",
            "^filter_groups/masked$",
            "^dynamic_sampling/(unused_share|filled_up)$",
        ],
        "truncated responses": ["^completions/clipped_ratio$"],
        "length in tokens": ["^completions/(min|mean|max)_length$"],
        "entropy": ["^entropy$"],
        "KL to the reference": ["^kl$"],
        "gradient norm": ["^grad_norm$"],
        "learning rate": ["^learning_rate$"],
    },
    "Time": {
        "seconds of a step": ["^seconds/", "^throughput/seconds_per_step$"],
        "tokens per second": ["^throughput/tokens_per_second$"],
    },
}
"""Category, chart, and the regular expressions of its curves' names (docs/metrics.md)."""


class Overview(Callback):
    """Defines TensorBoard's page "Custom Scalars": related curves in one chart, the important ones first.

    TensorBoard's other pages show each of a run's 50 curves in a card of its own, in alphabetical order.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        layout = {
            category: {chart: ["Multiline", curves] for chart, curves in charts.items()}
            for category, charts in CHARTS.items()
        }
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_custom_scalars(layout)
