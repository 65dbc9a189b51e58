"""Settings that cannot be right are refused by their key, before the student is loaded where that is possible."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy, SingleDeviceStrategy, Strategy

from lightning_modules.strategy import AVRTDeepSpeedStrategy, check_strategy
from tests.lightning_modules.training import fit, grpo_data, grpo_module, optimizer, sft_data, sft_module

OPTIMIZER: list[tuple[str, Any]] = [
    ("learning_rate", 0.0),
    ("learning_rate", math.inf),
    ("betas", (2.0, 0.9)),
    ("betas", (0.9, 1.0)),
    ("eps", -1.0),
    ("weight_decay", -0.1),
    ("warmup_steps", -1),
    ("total_steps", 0),
]
MODULE: list[tuple[str, Any]] = [
    ("num_generations", 1),
    ("num_iterations", 0),
    ("max_completion_length", 0),
    ("val_max_completion_length", 0),
    ("kv_cache_tokens", 0),
    ("chunk_rows", -1),
    ("temperature", 0.0),
    ("temperature", math.inf),
    ("beta", -0.1),
    ("beta", math.nan),
    ("epsilon", 0.0),
    ("epsilon", math.nan),
    ("epsilon_high", -1.0),
    ("loss_type", "ppo"),
    ("importance_sampling_level", "word"),
    ("scale_rewards", "all"),
    ("reference_device", "disk"),
]


@pytest.mark.parametrize(("name", "value"), OPTIMIZER, ids=str)
def test_the_optimizers(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^model\.init_args\.optimizer\.{name} must be .*, is ") as refused:
        optimizer(**{name: value})
    assert str(value) in str(refused.value)


@pytest.mark.parametrize(("name", "value"), MODULE, ids=str)
def test_the_modules(student_folder: Path, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^model\.init_args\.{name} (must be .*, )?is {value!r}"):
        grpo_module(student_folder, **{name: value})


@pytest.mark.parametrize("name", ["val_max_completion_length", "chunk_rows"])
def test_those_of_supervised_training(student_folder: Path, name: str) -> None:
    with pytest.raises(ValueError, match=rf"^model\.init_args\.{name} must be .*, is -1"):
        sft_module(student_folder, **{name: -1})


@pytest.mark.parametrize("name", ["accumulate_grad_batches", "max_steps"])
@pytest.mark.parametrize(("module", "data"), [(sft_module, sft_data), (grpo_module, grpo_data)])
def test_the_trainers(
    student_folder: Path, shards: Path, module: Callable[..., Any], data: Callable[..., Any], name: str
) -> None:
    with pytest.raises(ValueError, match=rf"^trainer\.{name} is 0"):
        fit(module(student_folder), data(shards), **{name: 0})


@pytest.mark.parametrize("name", ["timeout_minutes", "allgather_bucket_size", "reduce_bucket_size"])
def test_sizes_of_the_strategy(name: str) -> None:
    with pytest.raises(ValueError, match=rf"trainer\.strategy\.init_args\.{name} must be positive, is 0"):
        AVRTDeepSpeedStrategy(**{name: 0})  # type: ignore[arg-type]


@pytest.mark.parametrize("strategy", [FSDPStrategy, DeepSpeedStrategy])
def test_strategies_that_would_train_wrongly(strategy: type[Strategy]) -> None:
    """They refuse CPUs themselves; on GPUs they would run."""
    with pytest.raises(ValueError, match=rf"^trainer\.strategy: {strategy.__name__} .*avrt_zero2"):
        check_strategy(strategy())
    for right in (SingleDeviceStrategy("cpu"), DDPStrategy(), AVRTDeepSpeedStrategy()):
        check_strategy(right)
