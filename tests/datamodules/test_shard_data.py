"""The data modules' settings: what is refused, with its key, and before the student is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer

from datamodules.grpo import GRPODataModule
from lightning_modules.grpo import GRPOModule
from tests.lightning_modules.training import grpo_data, grpo_module, write_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("train"), count=4)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"val_batch_size": 0}, "val_batch_size"),
        ({"val_samples": 0}, "val_samples"),
        ({"num_workers": -1}, "num_workers"),
    ],
)
def test_refused_values(settings: dict[str, int], named: str) -> None:
    with pytest.raises(ValueError, match=rf"data\.init_args\..*{named}"):
        GRPODataModule("shards", **settings)


class NeverLoaded(GRPOModule):
    def configure_model(self) -> None:
        raise AssertionError("the student was loaded before the shards were looked for")


def run(stage: str, module: GRPOModule, data: GRPODataModule) -> None:
    trainer = Trainer(accelerator="cpu", max_steps=1, logger=False, enable_progress_bar=False)
    getattr(trainer, stage)(module, datamodule=data)


@pytest.mark.parametrize(
    ("stage", "settings", "line"),
    [
        ("fit", {"train": "/nowhere"}, r"data\.init_args\.train: shards: /nowhere: no such folder"),
        ("fit", {"train_split": "dev"}, r"data\.init_args\.train: split: no sample of split 'dev'"),
        ("fit", {"val": "/nowhere"}, r"data\.init_args\.val: shards: /nowhere: no such folder"),
        ("validate", {}, r"data\.init_args\.val: is null, and that is what `validate` reads"),
        ("predict", {}, r"data\.init_args\.val: is null, and that is what `predict` reads"),
    ],
)
def test_shards_are_looked_for_first(
    student_folder: Path, shards: Path, stage: str, settings: dict[str, Any], line: str
) -> None:
    with pytest.raises(ValueError, match=line):
        run(stage, grpo_module(student_folder, NeverLoaded), grpo_data(shards, **settings))


def test_rewards_are_looked_for_first(student_folder: Path, shards: Path) -> None:
    with pytest.raises(ValueError, match=r"trainer\.callbacks lists no reward"):
        run("fit", grpo_module(student_folder, NeverLoaded), grpo_data(shards))
