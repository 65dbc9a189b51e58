"""An engine that fails when a window begins: the steps done are saved, and the run goes on from there later."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from lightning_modules.callbacks import RunCheckpoint
from tests.lightning_modules.own_weights import OwnWeights
from tests.lightning_modules.test_sample_ahead import ahead
from tests.lightning_modules.training import fit, grpo_data, grpo_module, weights, write_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards"))


def make(folder: Path, shards: Path, fails_at: int | None, samples_ahead: bool) -> tuple[Any, Any]:
    engine = OwnWeights(fails_at=fails_at, ahead=samples_ahead)
    if samples_ahead:
        return ahead(folder, shards, engine)
    return grpo_module(folder, rollout=engine), grpo_data(shards, batch_size=2)


# Ten samples make two windows of four a pass: the second and the fourth are the last ones of theirs.
@pytest.mark.parametrize("window", [1, 2, 3])
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_the_steps_done_are_saved(
    student_folder: Path, shards: Path, tmp_path: Path, window: int, micro_batches: int
) -> None:
    batch = {"batch_size": 4 // micro_batches}
    steps: dict[str, Any] = {"max_steps": 5, "accumulate_grad_batches": micro_batches}

    def module(fails_at: int | None) -> tuple[Any, Any]:
        return grpo_module(student_folder, rollout=OwnWeights(fails_at=fails_at)), grpo_data(shards, **batch)

    whole = fit(*(run := module(None)), **steps)
    final = weights(run[0])
    checkpoints = tmp_path / "checkpoints"
    settings = {**steps, "enable_checkpointing": True}
    line = rf"the engine is gone\. Step {window} is saved as (\S+); start again with --ckpt_path last"
    with pytest.raises(ValueError, match=line) as error:
        fit(*module(window), RunCheckpoint(every_n_steps=50, dirpath=str(checkpoints)), **settings)
    found = re.search(line, str(error.value))
    assert found is not None
    saved = Path(found[1])
    assert [path.name for path in checkpoints.iterdir()] == [saved.name]
    second = fit(*(run := module(None)), ckpt_path=saved, **steps)
    assert second.after(0) == whole.after(window * micro_batches)
    assert all((weights(run[0])[name] == value).all() for name, value in final.items())


@pytest.mark.parametrize("window", [1, 2])
def test_while_it_samples_ahead(student_folder: Path, shards: Path, tmp_path: Path, window: int) -> None:
    """The window that failed is sampled again, with the weights of then."""
    checkpoints = RunCheckpoint(every_n_steps=1, dirpath=str(tmp_path))
    with pytest.raises(ValueError, match=r"the engine is gone\. Step \d is saved as "):
        fit(*make(student_folder, shards, window, True), checkpoints, max_steps=5, enable_checkpointing=True)
    saved = max(tmp_path.glob("*.ckpt"))
    assert saved.name == f"step={window:07d}.ckpt"
    run = fit(*make(student_folder, shards, None, True), ckpt_path=saved, max_steps=5)
    assert run.logged[0]["sampling/staleness/mean"] == 0
    assert len(run.logged) == 5 - window


@pytest.mark.parametrize("samples_ahead", [False, True])
def test_before_the_first_step(student_folder: Path, shards: Path, tmp_path: Path, samples_ahead: bool) -> None:
    checkpoints = RunCheckpoint(every_n_steps=1, dirpath=str(tmp_path / "checkpoints"))
    with pytest.raises(ValueError, match=r"the engine is gone$"):
        fit(*make(student_folder, shards, 0, samples_ahead), checkpoints, enable_checkpointing=True)
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_checkpoint_that_is_there_is_not_written_again(student_folder: Path, shards: Path, tmp_path: Path) -> None:
    checkpoints = RunCheckpoint(every_n_steps=1, dirpath=str(tmp_path))
    with pytest.raises(ValueError, match=r"the engine is gone\. Step 2 is saved as .*step=0000002\.ckpt"):
        fit(*make(student_folder, shards, 2, False), checkpoints, max_steps=5, enable_checkpointing=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step=0000001.ckpt", "step=0000002.ckpt"]
