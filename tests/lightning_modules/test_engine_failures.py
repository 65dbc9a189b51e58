"""An engine that fails when a window begins: the steps done are saved, and the run goes on from there later."""

from __future__ import annotations

import os
import re
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from lightning_modules import grpo
from lightning_modules.callbacks import PreemptionCallback, RunCheckpoint
from tests.lightning_modules.own_weights import AheadCopyEngine, OwnWeights
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


def test_weights_that_do_not_arrive_leave_the_window_that_was_sampled(
    student_folder: Path, shards: Path, tmp_path: Path
) -> None:
    """It is in the checkpoint: the resumed run is the one that did not stop."""
    whole = fit(*ahead(student_folder, shards), max_steps=4)
    checkpoints = RunCheckpoint(every_n_steps=50, dirpath=str(tmp_path))
    engine = OwnWeights(ahead=True, update_fails_at=1)
    with pytest.raises(ValueError, match=r"the weights did not arrive\. Step 1 is saved as "):
        fit(*ahead(student_folder, shards, engine), checkpoints, max_steps=4, enable_checkpointing=True)
    [saved] = tmp_path.glob("*.ckpt")
    again = fit(*ahead(student_folder, shards), ckpt_path=saved, max_steps=4)
    assert again.after(0) == whole.after(2)
    assert again.logged[0]["sampling/staleness/mean"] == 1


@pytest.mark.parametrize("number", [0, 1, 2])
def test_an_engine_that_takes_no_prompts(student_folder: Path, shards: Path, tmp_path: Path, number: int) -> None:
    """The first two calls are when the first window begins: for it and for the next one, the last of a pass."""
    checkpoints = RunCheckpoint(every_n_steps=50, dirpath=str(tmp_path))
    engine = OwnWeights(ahead=True, begin_fails_at=number)
    with pytest.raises(ValueError, match="the engine takes no prompts") as error:
        fit(*ahead(student_folder, shards, engine), checkpoints, max_steps=4, enable_checkpointing=True)
    saved = list(tmp_path.glob("*.ckpt"))
    assert len(saved) == (number == 2)
    assert ("Step 2 is saved as" in str(error.value)) == (number == 2)


class Ends(Callback):
    """Ends a run in its second step."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 1:
            raise self.error


@pytest.mark.parametrize("error", [RuntimeError("another one"), SystemExit(85), KeyboardInterrupt()], ids=repr)
def test_a_run_that_ends_by_an_error_closes_its_engine(
    student_folder: Path, shards: Path, error: BaseException
) -> None:
    engine = OwnWeights(ahead=True, seconds=0.3)
    with pytest.raises((RuntimeError, SystemExit, KeyboardInterrupt)):
        fit(*ahead(student_folder, shards, engine), Ends(error), max_steps=4)
    assert engine.calls[-1] == "close"
    assert "sampling ahead" not in [thread.name for thread in threading.enumerate()]


class Preempted(Callback):
    """A signal in the first step."""

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)


@pytest.mark.parametrize("seconds", [0.0, 30.0])
def test_a_run_that_is_preempted_does_not_wait_long(
    student_folder: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """With what was sampled ahead if it is there soon, or without."""
    monkeypatch.setattr(grpo, "SECONDS_BEFORE_LEAVING", 2.0)
    engine = OwnWeights(ahead=True)
    module, data = ahead(student_folder, shards, engine)
    checkpoints = RunCheckpoint(every_n_steps=50, dirpath=str(tmp_path))

    begin = AheadCopyEngine.begin

    def slow_second_window(*arguments: Any) -> Any:
        engine.seconds = seconds if engine.calls.count("begin") == 1 else 0.0
        return begin(*arguments)

    monkeypatch.setattr(AheadCopyEngine, "begin", slow_second_window)
    with pytest.raises(SystemExit):
        fit(module, data, Preempted(), checkpoints, PreemptionCallback(), max_steps=4, enable_checkpointing=True)
    [saved] = tmp_path.glob("*.ckpt")
    held = torch.load(saved, weights_only=True)["avrt"]["sampled_ahead"]
    assert (held is None) == (seconds > 0)
