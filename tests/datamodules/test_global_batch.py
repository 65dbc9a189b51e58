"""`prompts_per_step` and `val_every_n_steps`: which values the trainer, the loader and DeepSpeed then work with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, Trainer

from tests.lightning_modules.training import fit, grpo_data, grpo_module, sft_data, sft_module, write_shards


class Validations(Callback):
    """Notes the optimizer step of every validation."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_validation_start(self, trainer: Trainer, *_: Any) -> None:
        self.steps.append(trainer.global_step)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("train"), count=8)


@pytest.fixture(scope="module")
def val_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("val"), count=2, first=100)


def test_same_run_as_with_accumulation(student_folder: Path, shards: Path) -> None:
    settings: dict[str, Any] = {"batch_size": 2}
    explicit = fit(sft_module(student_folder), sft_data(shards, **settings), accumulate_grad_batches=2)
    stated = fit(
        sft_module(student_folder), sft_data(shards, prompts_per_step=4, **settings), accumulate_grad_batches=1
    )
    assert stated.ids == explicit.ids
    assert stated.losses == explicit.losses
    assert len(stated.losses) == 4


def test_validates_after_so_many_optimizer_steps(student_folder: Path, shards: Path, val_shards: Path) -> None:
    # An epoch has 4 steps: the third validation is in the second epoch.
    validations = Validations()
    data = grpo_data(shards, val=str(val_shards), prompts_per_step=2, val_every_n_steps=2)
    fit(grpo_module(student_folder), data, validations, accumulate_grad_batches=1, max_steps=6)
    assert validations.steps == [2, 4, 6]


def test_fewer_steps_than_an_interval(student_folder: Path, shards: Path, val_shards: Path) -> None:
    validations = Validations()
    data = sft_data(shards, val=str(val_shards), prompts_per_step=2, val_every_n_steps=100)
    fit(sft_module(student_folder), data, validations, accumulate_grad_batches=1, max_steps=2)
    assert validations.steps == []


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"fast_dev_run": 2}, 1),
        ({"limit_train_batches": 4, "max_epochs": 1, "max_steps": -1}, 2),
        ({"overfit_batches": 2}, 2),
    ],
)
def test_limited_runs(
    student_folder: Path, shards: Path, val_shards: Path, settings: dict[str, Any], expected: int
) -> None:
    module = sft_module(student_folder)
    data = sft_data(shards, val=str(val_shards), prompts_per_step=2, val_every_n_steps=1)
    recorder = fit(module, data, **{"accumulate_grad_batches": 1, **settings})
    assert len(recorder.losses) == 2 * expected
    assert module.global_step == expected


def test_a_second_fit_with_the_same_trainer(student_folder: Path, shards: Path) -> None:
    trainer = Trainer(
        accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    data = sft_data(shards, prompts_per_step=2)
    trainer.fit(sft_module(student_folder), datamodule=data)
    trainer.fit(sft_module(student_folder), datamodule=data)
    assert trainer.accumulate_grad_batches == 2


@pytest.mark.parametrize(
    ("data", "trainer", "named"),
    [
        ({"prompts_per_step": 4}, {"accumulate_grad_batches": 2}, ["accumulate_grad_batches is 2", "makes it 4"]),
        ({"val_every_n_steps": 3}, {"val_check_interval": 4}, ["val_check_interval is 4", "makes it 6"]),
        ({"prompts_per_step": 3, "batch_size": 2}, {"accumulate_grad_batches": 1}, ["prompts_per_step is 3", "2 or 4"]),
    ],
)
def test_contradictions_are_refused(
    student_folder: Path, shards: Path, data: dict[str, Any], trainer: dict[str, Any], named: list[str]
) -> None:
    with pytest.raises(ValueError) as error:
        fit(sft_module(student_folder), sft_data(shards, **data), **trainer)
    assert all(text in str(error.value) for text in named), error.value
