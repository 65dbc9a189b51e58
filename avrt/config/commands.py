"""The commands that take a training or evaluation config."""

from __future__ import annotations

TRAINING = {
    "fit": "train a model: --config cli_configs/grpo_tiny.yaml",
    "validate": "compute the validation metrics once",
    "test": "evaluate on benchmarks: --config cli_configs/eval.yaml",
    "predict": "write a student's answers to the validation questions",
}
"""LightningCLI's own subcommands. A config file may nest its settings under one of them."""
