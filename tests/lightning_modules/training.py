"""Real training runs of the tiny student through `Trainer.fit`, small enough to repeat many times."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from avrt.data.writer import ShardWriter
from avrt.grpo.loss import LossConfig
from avrt.rewards import RewardCallback
from avrt.rollout.engine import SamplingConfig
from avrt.sample import Completion, Sample
from avrt.text.answers import parse
from datamodules.base import ShardDataModule
from datamodules.grpo import GRPODataModule
from datamodules.sft import SFTDataModule
from datamodules.windows import MicroBatch
from lightning_modules.grpo import GRPOModule
from lightning_modules.optimization import OptimizerConfig
from lightning_modules.sft import SFTModule
from tests.tiny_student import KINDS, make_sample, student_config


def write_shards(folder: Path, count: int = 10, kinds: Iterable[str] = KINDS, first: int = 0) -> Path:
    """Samples of all combinations of streams, with short audio and few frames, numbered from `first`."""
    kinds = tuple(kinds)
    with ShardWriter(folder, image_format="png", samples_per_shard=4) as writer:
        for i in range(first, first + count):
            seconds = 0.2 + 0.05 * (i % 3)
            writer.write(make_sample(kinds[i % len(kinds)], i, frames=4, audio_seconds=seconds))
    return folder


class VowelReward(RewardCallback):
    """The share of vowels: spreads the random student's completions, so that groups carry signal."""

    name = "vowels"

    def score(self, completions: Any) -> list[float]:
        return [sum(c in "aeiou" for c in done.text) / (1 + len(done.text)) for done in completions]


class Constant(RewardCallback):
    """The same for every completion."""

    name = "constant"

    def score(self, completions: Any) -> list[float]:
        return [0.5 for _ in completions]


class Given(RewardCallback):
    """Gives the values it was made with."""

    def __init__(self, name: str, values: torch.Tensor, weight: float) -> None:
        super().__init__(weight=weight, name=name)
        self.values = values

    def score(self, completions: Any) -> Any:
        return self.values


class Recorder(Callback):
    """A run, step by step: sample ids, loss, gradients' norm, and the rollout's tokens and log-probs."""

    def __init__(self) -> None:
        self.ids: list[list[str]] = []
        self.losses: list[float] = []
        self.logged: list[dict[str, float]] = []
        self.tokens: list[list[list[int]]] = []
        self._step_ended = False

    def _read_metrics(self, trainer: Trainer) -> None:
        """The module logs a step after the callbacks' hooks for its last micro-batch have run."""
        if self._step_ended:
            self.logged.append({name: float(value) for name, value in trainer.callback_metrics.items()})
            self._step_ended = False

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self._read_metrics(trainer)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._read_metrics(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: MicroBatch, batch_idx: int
    ) -> None:
        self.ids.append([prompt.sample.id for prompt in batch.prompts])
        self.losses.append(float(outputs["loss"]))
        self._step_ended = batch.last
        if isinstance(module, GRPOModule):
            assert module.rollout is not None
            responses = module.rollout.responses[batch.start : batch.stop]
            self.tokens.append([r.token_ids.tolist() for group in responses for r in group])

    def after(self, start: int) -> tuple[Any, ...]:
        return self.ids[start:], self.losses[start:], self.tokens[start:]


class Gradients(Callback):
    """The gradient of every optimizer step, before clipping, and the weights before and after it."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, torch.Tensor]] = []
        self.weights: list[dict[str, torch.Tensor]] = []

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self.weights.append(weights(module))

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        named = module.student.thinker.named_parameters()
        self.gradients.append({name: p.grad.clone() for name, p in named if p.grad is not None})

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch.last:
            self.weights.append(weights(module))


class StopAfter(Callback):
    """Saves a checkpoint after so many optimizer steps and stops the run there, as a signal would."""

    def __init__(self, steps: int, path: Path) -> None:
        self.steps = steps
        self.path = path

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.steps and not trainer.should_stop:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


def optimizer(**settings: Any) -> OptimizerConfig:
    return OptimizerConfig(**{"learning_rate": 1e-2, "warmup_steps": 0, "schedule": "constant", **settings})


def grpo_module(
    folder: Path,
    kind: type[GRPOModule] = GRPOModule,
    loss: dict[str, Any] | None = None,
    sampling: dict[str, Any] | None = None,
    **settings: Any,
) -> GRPOModule:
    defaults: dict[str, Any] = {
        "student": student_config(folder),
        "optimizer": optimizer(),
        "loss": LossConfig(**{"beta": 0.04, **(loss or {})}),
        "sampling": SamplingConfig(**{"max_completion_length": 5, **(sampling or {})}),
        "num_generations": 3,
        "val_max_completion_length": 4,
    }
    return kind(**{**defaults, **settings})


def sft_module(folder: Path, kind: type[SFTModule] = SFTModule, **settings: Any) -> SFTModule:
    defaults: dict[str, Any] = {"student": student_config(folder), "optimizer": optimizer()}
    return kind(**{**defaults, "val_max_completion_length": 4, **settings})


def grpo_data(shards: Path, **settings: Any) -> GRPODataModule:
    return GRPODataModule(**{"train": str(shards), "batch_size": 1, "num_workers": 0, **settings})


def sft_data(shards: Path, **settings: Any) -> SFTDataModule:
    return SFTDataModule(**{"train": str(shards), "batch_size": 1, "num_workers": 0, **settings})


def fit(
    module: LightningModule,
    data: ShardDataModule,
    *callbacks: Callback,
    ckpt_path: Path | None = None,
    **trainer: Any,
) -> Recorder:
    """Train on one CPU thread, quietly; returns what the run did."""
    recorder = Recorder()
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": -1,
        "max_steps": 2,
        "accumulate_grad_batches": 2,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        "num_sanity_val_steps": 0,
    }
    if isinstance(module, GRPOModule) and not any(isinstance(c, RewardCallback) for c in callbacks):
        callbacks = (VowelReward(), *callbacks)
    run = Trainer(**{**settings, **trainer}, callbacks=[*callbacks, recorder])
    run.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=False)
    return recorder


def weights(module: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in module.student.thinker.named_parameters()}


def is_encoder(name: str) -> bool:
    return name.startswith(("model.visual.", "model.audio_tower."))


def gold_completion(sample: Sample) -> Completion:
    completion = Completion(sample, f"<think>So.</think>\n<answer>{sample.gold}</answer>")
    assert parse(completion.text, sample).letter == sample.gold
    return completion
