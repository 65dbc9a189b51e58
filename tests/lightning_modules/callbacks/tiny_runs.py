"""Short real trainings of the tiny student on a handful of samples, and the TensorBoard files that they wrote."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from avrt.data.writer import ShardWriter
from avrt.rewards import RewardCallback
from avrt.rollout.engine import SamplingConfig
from datamodules.grpo import GRPODataModule
from datamodules.sft import SFTDataModule
from lightning_modules.grpo import GRPOModule
from lightning_modules.optimization import OptimizerConfig
from lightning_modules.sft import SFTModule
from tests.tiny_student import KINDS, make_sample, student_config

OPTIMIZER = OptimizerConfig(learning_rate=1e-3, warmup_steps=0, schedule="constant")


class TextReward(RewardCallback):
    """A number that differs from reply to reply; a random student earns none of the shipped rewards."""

    name = "text"

    def score(self, completions: Any) -> list[float]:
        return [sum(completion.text.encode()) % 97 / 97 for completion in completions]


def write_shards(folder: Path, train: int = 8, val: int = 4) -> tuple[Path, Path]:
    """Training and validation shards; samples take turns with the combinations of streams."""
    for split, numbers in (("train", range(train)), ("val", range(train, train + val))):
        with ShardWriter(folder / split, image_format="png") as writer:
            for number in numbers:
                sample = make_sample(KINDS[number % len(KINDS)], number, audio_seconds=0.5)
                assert sample.clip is not None
                if sample.clip.is_image:  # shards need a time for every frame
                    sample = replace(sample, clip=replace(sample.clip, timestamps=(0.0,)))
                writer.write(sample)
    return folder / "train", folder / "val"


def grpo(student: Path, shards: tuple[Path, Path], **settings: Any) -> tuple[GRPOModule, GRPODataModule]:
    """A GRPO module and its data: 2 prompts in a micro-batch, 3 responses each."""
    sampling = SamplingConfig(max_completion_length=settings.pop("max_completion_length", 6))
    module = GRPOModule(student_config(student), OPTIMIZER, sampling=sampling, **{"num_generations": 3} | settings)
    return module, GRPODataModule(str(shards[0]), str(shards[1]), batch_size=2, num_workers=0)


def sft(student: Path, shards: tuple[Path, Path], **settings: Any) -> tuple[SFTModule, SFTDataModule]:
    """An SFT module and its data: 2 samples in a micro-batch."""
    module = SFTModule(student_config(student), OPTIMIZER, val_max_completion_length=6, **settings)
    return module, SFTDataModule(str(shards[0]), str(shards[1]), batch_size=2, num_workers=0)


def trainer(folder: Path, callbacks: list[Callback], **settings: Any) -> Trainer:
    """Two optimizer steps of two micro-batches, validation after the second."""
    defaults: dict[str, Any] = {
        "max_steps": 2,
        "accumulate_grad_batches": 2,
        "val_check_interval": 4,
        "check_val_every_n_epoch": None,
        "log_every_n_steps": 1,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "logger": TensorBoardLogger(str(folder), name=None, version=""),
    }
    return Trainer(
        accelerator="cpu", devices=1, default_root_dir=str(folder), callbacks=callbacks, **defaults | settings
    )


def events(folder: Path) -> EventAccumulator:
    """Everything that a run wrote for TensorBoard."""
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0, "images": 0, "audio": 0})
    return found.Reload()


def scalars(found: EventAccumulator, tag: str) -> list[tuple[int, float]]:
    """Step and value of a curve's points."""
    return [(point.step, point.value) for point in found.Scalars(tag)]


def texts(found: EventAccumulator, tag: str) -> dict[int, str]:
    """Markdown by step of a text tag."""
    points = found.Tensors(f"{tag}/text_summary")
    return {point.step: point.tensor_proto.string_val[0].decode() for point in points}
