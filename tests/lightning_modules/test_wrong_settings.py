"""Invalid settings are refused with their key: values when parsed, the trainer's before the student is loaded."""

from __future__ import annotations

import math
from argparse import ArgumentError
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import ArgumentParser
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy, SingleDeviceStrategy, Strategy

from datamodules.benchmark import BenchmarkDataModule
from datamodules.grpo import GRPODataModule
from lightning_modules.evaluate import EvaluateModule
from lightning_modules.grpo import GRPOModule
from lightning_modules.sft import SFTModule
from lightning_modules.strategy import AVRTDeepSpeedStrategy
from lightning_modules.strategy_checks import check_strategy
from tests.lightning_modules.training import fit, grpo_data, grpo_module, sft_data, sft_module

TRAINING: list[tuple[str, Any]] = [
    ("optimizer.learning_rate", 0.0),
    ("optimizer.learning_rate", math.inf),
    ("optimizer.betas", [2.0, 0.9]),
    ("optimizer.betas", [0.9, 1.0]),
    ("optimizer.eps", -1.0),
    ("optimizer.weight_decay", -0.1),
    ("optimizer.warmup_steps", -1),
    ("optimizer.total_steps", 0),
    ("val_max_completion_length", 0),
    ("chunk_rows", -1),
    ("max_skipped_steps", 0),
]
GRPO: list[tuple[str, Any]] = [
    ("num_generations", 1),
    ("num_iterations", 0),
    ("dynamic_sampling", {"max_num_gen_batches": 1}),
    ("dynamic_sampling", {"metric": "accuracy"}),
    ("filter_groups", "accuracy"),
    ("sampling.max_completion_length", 0),
    ("sampling.kv_cache_tokens", 0),
    ("sampling.temperature", 0.0),
    ("sampling.temperature", math.inf),
    ("sampling.seed", -1),
    ("sampling.decoding", "fast"),
    ("loss.beta", -0.1),
    ("loss.beta", math.nan),
    ("loss.epsilon", 0.0),
    ("loss.epsilon", math.nan),
    ("loss.epsilon_high", -1.0),
    ("loss.type", "ppo"),
    ("loss.importance_sampling_level", "word"),
    ("loss.scale_rewards", "all"),
    ("loss.multi_objective_aggregation", "normalize"),
    ("loss.mask_truncated_completions", "some"),
    ("loss.tas_lambda", -0.1),
    ("reference_device", "disk"),
]
DATA: list[tuple[str, Any]] = [
    ("batch_size", 0),
    ("val_batch_size", 0),
    ("val_samples", 0),
    ("val_modalities", "VA"),
    ("num_workers", -1),
    ("prefetch", 0),
    ("prompts_per_step", 0),
    ("val_every_n_steps", 0),
]
BENCHMARK: list[tuple[str, Any]] = [
    ("batch_size", 0),
    ("num_workers", -1),
    ("prefetch", 0),
    ("num_frames", 0),
    ("max_audio_seconds", 0.0),
]
STRATEGY: list[tuple[str, Any]] = [
    ("stage", 4),
    ("timeout_minutes", 0),
    ("allgather_bucket_size", 0),
    ("reduce_bucket_size", 0),
    ("grad_accum_dtype", "fp16"),
    ("pin_memory", "yes please"),
]
CASES = [
    *((GRPOModule, *case) for case in TRAINING + GRPO),
    *((SFTModule, *case) for case in [*TRAINING, ("kv_cache_tokens", 0)]),
    *((EvaluateModule, name, 0) for name in ("max_completion_length", "kv_cache_tokens")),
    *((kind, "decoding", "fast") for kind in (SFTModule, EvaluateModule)),
    *((GRPODataModule, *case) for case in DATA),
    *((BenchmarkDataModule, *case) for case in BENCHMARK),
    *((AVRTDeepSpeedStrategy, *case) for case in STRATEGY),
]


def parse(kind: type, name: str, value: Any) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind)
    needed: dict[str, Any] = {"train": "shards"} if kind is GRPODataModule else {}
    parser.parse_object(needed | {name: value})


@pytest.mark.parametrize(("kind", "name", "value"), CASES, ids=lambda x: x.__name__ if isinstance(x, type) else str(x))
def test_values(kind: type, name: str, value: Any) -> None:
    with pytest.raises(ArgumentError) as error:
        parse(kind, name, value)
    assert name in str(error.value)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (GRPOModule, "loss.beta", 0),
        (GRPOModule, "dynamic_sampling", {}),
        (GRPOModule, "dynamic_sampling.rewards", ["accuracy", "format"]),
        (GRPOModule, "filter_groups", ["accuracy"]),
        (SFTModule, "kv_cache_tokens", 1000),
        (EvaluateModule, "max_completion_length", 1),
        (GRPODataModule, "prompts_per_step", None),
        (BenchmarkDataModule, "prefetch", 3),
        (AVRTDeepSpeedStrategy, "stage", 3),
        (AVRTDeepSpeedStrategy, "grad_accum_dtype", "bf16"),
        (AVRTDeepSpeedStrategy, "pin_memory", "auto"),
        (AVRTDeepSpeedStrategy, "pin_memory", True),
    ],
)
def test_others_are_accepted(kind: type, name: str, value: Any) -> None:
    parse(kind, name, value)


def test_answers_are_decoded_as_set(student_folder: Path) -> None:
    student = grpo_module(student_folder).student_config
    modules = [
        grpo_module(student_folder, sampling={"decoding": "static"}),
        sft_module(student_folder, decoding="static"),
        EvaluateModule(student, decoding="static"),
    ]
    assert [module.answer_sampling.decoding for module in modules] == ["static"] * 3
    assert "decoding" not in modules[0].training_settings()["sampling"], "a run may resume with another"


def test_graphs_are_refused_on_the_cpu_before_the_student_is_loaded(student_folder: Path, shards: Path) -> None:
    module = sft_module(student_folder, decoding="graphs")
    with pytest.raises(ValueError, match=r"model\.decoding.*graphs.*auto"):
        fit(module, sft_data(shards))
    assert module.student is None


@pytest.mark.parametrize("name", ["accumulate_grad_batches", "max_steps"])
@pytest.mark.parametrize(("module", "data"), [(sft_module, sft_data), (grpo_module, grpo_data)])
def test_the_trainers(
    student_folder: Path, shards: Path, module: Callable[..., Any], data: Callable[..., Any], name: str
) -> None:
    with pytest.raises(ValueError, match=rf"^trainer\.{name} is 0"):
        fit(module(student_folder), data(shards), **{name: 0})


@pytest.mark.parametrize("strategy", [FSDPStrategy, DeepSpeedStrategy])
def test_strategies_that_would_train_wrongly(strategy: type[Strategy]) -> None:
    """They refuse CPUs themselves; on GPUs they would run."""
    with pytest.raises(ValueError, match=rf"^trainer\.strategy: {strategy.__name__} .*avrt_zero2"):
        check_strategy(strategy())
    for right in (SingleDeviceStrategy("cpu"), DDPStrategy(), AVRTDeepSpeedStrategy()):
        check_strategy(right)
