"""A run whose steps are not finite ends with an error, keeps its last good checkpoint, and exports nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from avrt.model.checkpoints import complete_checkpoints, load_without_code
from lightning_modules.callbacks import RunCheckpoint
from lightning_modules.callbacks.export import ExportStudent
from tests.lightning_modules.training import fit, grpo_data, grpo_module, optimizer, sft_data, sft_module


class SpoilLoss(Callback):
    """Makes the loss of some optimizer steps NaN."""

    def __init__(self, *steps: int) -> None:
        self.steps = steps

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        share = module.share_of_step
        module.share_of_step = lambda loss: share(loss * (float("nan") if trainer.global_step in self.steps else 1.0))


class SpoilGradient(Callback):
    """Makes one gradient infinite in some optimizer steps, while the loss stays finite."""

    def __init__(self, *steps: int) -> None:
        self.steps = steps

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        weight = next(p for p in module.student.parameters() if p.requires_grad)
        weight.register_hook(lambda gradient: gradient * float("inf") if trainer.global_step in self.steps else None)


class SpoilWeights(Callback):
    """Makes trained weights NaN after so many steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    @torch.no_grad()
    def on_train_batch_start(self, trainer: Trainer, module: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            next(p for p in module.student.parameters() if p.requires_grad).fill_(float("nan"))


def run(student: Path, shards: Path, folder: Path, *callbacks: Callback, steps: int, **settings: Any) -> Any:
    return fit(
        sft_module(student, optimizer=optimizer(learning_rate=1e-3), **settings),
        sft_data(shards),
        *callbacks,
        RunCheckpoint(every_n_steps=1, keep=1),
        ExportStudent(),
        default_root_dir=str(folder),
        enable_checkpointing=True,
        max_steps=steps,
        accumulate_grad_batches=1,
    )


@pytest.mark.parametrize("spoil", [SpoilLoss, SpoilGradient])
def test_skipped_steps_in_a_row_end_the_run(spoil: Any, student_folder: Path, shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"step 5: .*3 optimizer steps in a row.*max_skipped_steps"):
        run(student_folder, shards, tmp_path, spoil(*range(2, 100)), steps=30, max_skipped_steps=3)
    assert not (tmp_path / "student").exists()


def test_a_step_in_between_starts_the_count_again(student_folder: Path, shards: Path, tmp_path: Path) -> None:
    recorder = run(student_folder, shards, tmp_path, SpoilLoss(1, 2, 4, 5), steps=7, max_skipped_steps=3)
    assert recorder.logged[-1]["skipped_steps"] == 4
    assert (tmp_path / "student" / "config.json").is_file()


def test_the_count_continues_after_a_resume(student_folder: Path, shards: Path, tmp_path: Path) -> None:
    run(student_folder, shards, tmp_path, SpoilLoss(1, 2), steps=3, max_skipped_steps=3)
    (checkpoint,) = complete_checkpoints(tmp_path / "checkpoints")
    with pytest.raises(ValueError, match=r"step 4: .*3 optimizer steps in a row"):
        fit(
            sft_module(student_folder, optimizer=optimizer(learning_rate=1e-3), max_skipped_steps=3),
            sft_data(shards),
            SpoilLoss(3),
            ckpt_path=checkpoint,
            max_steps=6,
            accumulate_grad_batches=1,
        )


def test_a_short_run_without_a_single_step_fails_too(student_folder: Path, shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="all 2 optimizer steps"):
        run(student_folder, shards, tmp_path, SpoilLoss(0, 1), steps=2)
    assert not (tmp_path / "student").exists()


def test_the_last_good_checkpoint_stays(student_folder: Path, shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"step 3: .*weights are not finite.*step=0000002\.ckpt"):
        run(student_folder, shards, tmp_path, SpoilWeights(2), steps=30)
    (checkpoint,) = complete_checkpoints(tmp_path / "checkpoints")
    assert checkpoint.name == "step=0000002.ckpt"
    assert all(torch.isfinite(value).all() for value in load_without_code(checkpoint)["state_dict"].values())
    assert not (tmp_path / "student").exists()


def test_sampling_from_weights_that_are_not_finite(student_folder: Path, shards: Path) -> None:
    """GRPO meets them before it has a loss."""
    with pytest.raises(ValueError, match="not finite"):
        fit(grpo_module(student_folder, max_skipped_steps=3), grpo_data(shards), SpoilWeights(1), max_steps=30)
