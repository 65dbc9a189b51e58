"""Modules connect data modules by type, downward, with a Trainer in a script as well as from configs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningDataModule, Trainer

from avrt.evaluation.records.log import read_records
from datamodules.benchmark import BenchmarkDataModule
from lightning_modules.evaluate import EvaluateModule
from tests.lightning_modules.training import VowelReward, fit, grpo_data, grpo_module, sft_data, sft_module
from tests.tiny_student import student_config


def trainer(folder: Path, *callbacks: Callback, **settings: Any) -> Trainer:
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(accelerator="cpu", default_root_dir=folder, callbacks=list(callbacks), **quiet | settings)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def evaluate_module(student: Path, **settings: Any) -> EvaluateModule:
    return EvaluateModule(student_config(student), **{"max_completion_length": 4} | settings)


@pytest.mark.parametrize("command", ["fit", "validate", "predict"])
def test_training_modules_read_shards_only(student_folder: Path, shards: Path, tmp_path: Path, command: str) -> None:
    data = BenchmarkDataModule("mine", shards=str(shards), num_workers=0)
    run = trainer(tmp_path, VowelReward(), max_steps=1)
    with pytest.raises(ValueError, match=r"^data\.class_path: GRPOModule.*BenchmarkDataModule"):
        getattr(run, command)(grpo_module(student_folder), datamodule=data)


def test_evaluation_reads_benchmarks_only(student_folder: Path, shards: Path, tmp_path: Path) -> None:
    run = trainer(tmp_path)
    data = grpo_data(shards, val=str(shards))
    with pytest.raises(ValueError, match=r"^data\.class_path: EvaluateModule.*GRPODataModule"):
        run.test(evaluate_module(student_folder), datamodule=data)


def test_an_evaluation_module_validates_on_shards(student_folder: Path, shards: Path, tmp_path: Path) -> None:
    data = grpo_data(shards, val=str(shards), val_samples=2)
    (metrics,) = trainer(tmp_path).validate(evaluate_module(student_folder), data, verbose=False)
    assert set(metrics) == {"val/accuracy", "val/format"}


@pytest.mark.parametrize("kind", ["shards", "benchmark"])
def test_a_data_module_without_a_module_says_what_it_needs(shards: Path, kind: str) -> None:
    data: LightningDataModule = grpo_data(shards, val=str(shards))
    if kind == "benchmark":
        data = BenchmarkDataModule("mine", shards=str(shards))
    data.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    data.setup("validate")
    with pytest.raises(ValueError, match="connect"):
        data.test_dataloader() if kind == "benchmark" else data.val_dataloader()


def test_a_loader_instead_of_a_data_module(student_folder: Path, shards: Path, tmp_path: Path) -> None:
    """The run's length must then come from the settings."""
    module, data = sft_module(student_folder), sft_data(shards, batch_size=2)
    fit(module, data, max_steps=1, accumulate_grad_batches=1)
    trainer(tmp_path, max_steps=1).fit(module, data.window_loader)
    with pytest.raises(ValueError, match=r"^trainer\.max_epochs"):
        trainer(tmp_path, max_epochs=1).fit(module, data.window_loader)


def test_a_data_module_serves_one_module_after_another(student_folder: Path, shards: Path) -> None:
    """Each run begins at its own first sample, with its own number of iterations."""
    data = grpo_data(shards)
    first = fit(grpo_module(student_folder), data, max_steps=2)
    again = fit(grpo_module(student_folder, num_iterations=2), data, max_steps=2)
    assert again.ids[:2] == first.ids[:2]
    assert again.ids[2:] == again.ids[:2]


# ---- the start of an evaluation -------------------------------------------------------------------------------------


class BeforeTheRun(Callback):
    """Notes the files of the run's folder when loaders are there and before the module starts the run."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.found: dict[str, bytes] | None = None

    def on_test_start(self, *_: Any) -> None:
        self.found = files(self.run)


def test_a_loader_starts_no_run(student_folder: Path, shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    data = BenchmarkDataModule("mine", shards=str(shards), num_workers=0)
    before = BeforeTheRun(run)
    trainer(run, before).test(evaluate_module(student_folder), datamodule=data, verbose=False)
    assert before.found == {}
    assert len(read_records(run / "mine")) == 10


def test_a_refused_run_leaves_every_byte(student_folder: Path, shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    data = BenchmarkDataModule("mine", shards=str(shards), num_workers=0)
    trainer(run, limit_test_batches=1).test(evaluate_module(student_folder), datamodule=data, verbose=False)
    before = files(run)
    assert len(read_records(run / "mine")) == 8
    other = evaluate_module(student_folder, max_completion_length=5)
    with pytest.raises(ValueError, match="max_completion_length"):
        trainer(run).test(other, datamodule=data, verbose=False)
    assert files(run) == before


def test_what_is_left_is_read_before_loaders_are_built(student_folder: Path, shards: Path, tmp_path: Path) -> None:
    """Only batches with an unanswered question are read again."""
    run = tmp_path / "run"
    data = BenchmarkDataModule("mine", shards=str(shards), num_workers=0, batch_size=2)
    trainer(run, limit_test_batches=3).test(evaluate_module(student_folder), datamodule=data, verbose=False)
    module = evaluate_module(student_folder)
    again = trainer(run)
    again.test(module, datamodule=data, verbose=False)
    assert again.num_test_batches == [3]  # two of five, and the empty one
    assert len(read_records(run / "mine")) == 10
