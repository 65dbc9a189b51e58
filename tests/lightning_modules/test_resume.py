"""A run that is stopped after n steps and resumed sees the same samples and losses, bit for bit, as one that is not."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from avrt.rewards import FormatReward, LengthReward, RewardCallback, describe_rewards
from datamodules.base import ShardDataModule
from lightning_modules.callbacks import RunCheckpoint, Throughput
from lightning_modules.training import TrainingModule
from tests.lightning_modules.training import (
    Recorder,
    StopAfter,
    VowelReward,
    fit,
    grpo_data,
    grpo_module,
    optimizer,
    sft_data,
    sft_module,
    weights,
    write_shards,
)

Make = Callable[..., tuple[TrainingModule, ShardDataModule]]
SCHEDULE = {"schedule": "cosine", "warmup_steps": 1}


def grpo(folder: Path, shards: Path, module: dict[str, Any] | None = None, **data: Any) -> tuple[Any, Any]:
    settings = {"optimizer": optimizer(**SCHEDULE), **(module or {})}
    return grpo_module(folder, **settings), grpo_data(shards, **data)


def sft(folder: Path, shards: Path, module: dict[str, Any] | None = None, **data: Any) -> tuple[Any, Any]:
    settings = {"optimizer": optimizer(**SCHEDULE), **(module or {})}
    return sft_module(folder, **settings), sft_data(shards, **data)


def stop_and_resume(make: Callable[[], tuple[Any, Any]], path: Path, stop: int, **trainer: Any) -> tuple[Any, Any, Any]:
    """(uninterrupted run, its weights), the resumed run's, and the steps before the stop."""
    module, data = make()
    whole = fit(module, data, **trainer)
    final = weights(module)
    module, data = make()
    first = fit(module, data, StopAfter(stop, path), **trainer)
    module, data = make()
    second = fit(module, data, ckpt_path=path, **trainer)
    for name, value in weights(module).items():
        assert torch.equal(value, final[name]), name
    return whole, first, second


def assert_continues(whole: Recorder, first: Recorder, second: Recorder) -> None:
    assert first.ids + second.ids == whole.ids
    assert first.losses + second.losses == whole.losses
    assert first.tokens + second.tokens == whole.tokens
    assert len(second.ids) > 0
    names = ("loss", "grad_norm", "learning_rate", "num_tokens", "entropy")
    logged = first.logged + second.logged
    assert len(logged) == len(whole.logged)
    for ours, theirs in zip(logged, whole.logged, strict=True):
        assert [ours[name] for name in names] == [theirs[name] for name in names]


# Ten samples and windows of four make two steps an epoch: a stop after 1 or 3 is in the middle, after 2 at its end.
@pytest.mark.parametrize("stop", [1, 2, 3, 4])
@pytest.mark.parametrize("make", [grpo, sft])
def test_resumed_run(student_folder: Path, shards: Path, tmp_path: Path, make: Make, stop: int) -> None:
    runs = stop_and_resume(
        lambda: make(student_folder, shards, batch_size=2), tmp_path / "stop.ckpt", stop, max_steps=5
    )
    assert_continues(*runs)


@pytest.mark.parametrize("make", [grpo, sft])
@pytest.mark.parametrize("stop", [1, 2])
def test_resumed_run_with_epochs(layout_folder: Path, shards: Path, tmp_path: Path, make: Make, stop: int) -> None:
    """The length given in epochs instead of steps."""
    runs = stop_and_resume(
        lambda: make(layout_folder, shards, batch_size=2),
        tmp_path / "stop.ckpt",
        stop,
        max_steps=-1,
        max_epochs=3,
    )
    assert len(runs[0].logged) == 6
    assert_continues(*runs)


@pytest.mark.parametrize("make", [grpo, sft])
def test_workers_change_nothing(student_folder: Path, shards: Path, tmp_path: Path, make: Make) -> None:
    """With two workers, resumed in the middle of an epoch, as without any."""
    module, data = make(student_folder, shards, batch_size=2)
    alone = fit(module, data, max_steps=3)
    runs = stop_and_resume(
        lambda: make(student_folder, shards, batch_size=2, num_workers=2), tmp_path / "stop.ckpt", 1, max_steps=3
    )
    assert_continues(*runs)
    assert (runs[0].ids, runs[0].losses, runs[0].tokens) == (alone.ids, alone.losses, alone.tokens)


def test_lightnings_own_checkpoints(student_folder: Path, shards: Path, tmp_path: Path) -> None:
    """Those of `ModelCheckpoint` every step, and those it writes after validation."""
    settings = {"batch_size": 2, "val": str(write_shards(tmp_path / "val", 1, first=20))}
    module, data = grpo(student_folder, shards, **settings)
    saver = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    whole = fit(module, data, saver, VowelReward(), max_steps=4, enable_checkpointing=True)
    for step in (1, 2, 3):
        module, data = grpo(student_folder, shards, **settings)
        resumed = fit(
            module,
            data,
            VowelReward(),
            max_steps=4,
            ckpt_path=tmp_path / f"step={step}.ckpt",
            default_root_dir=tmp_path / f"from_{step}",
            enable_checkpointing=True,
        )
        start = 2 * step
        assert resumed.ids == whole.ids[start:], step
        assert resumed.losses == whole.losses[start:], step
        assert resumed.tokens == whole.tokens[start:], step


def test_the_checkpoint_that_a_run_resumes_from_is_not_written_again(
    student_folder: Path, shards: Path, tmp_path: Path
) -> None:
    """A step has several micro-batches; after the first one, the run is still at the checkpoint's step."""

    def run(steps: int, ckpt_path: Path | None = None) -> None:
        module, data = sft(student_folder, shards, batch_size=2)
        saver = RunCheckpoint(every_n_steps=1, keep=-1, dirpath=str(tmp_path))
        fit(module, data, saver, max_steps=steps, ckpt_path=ckpt_path, enable_checkpointing=True)

    run(2)
    first = tmp_path / "step=0000002.ckpt"
    before = first.stat().st_ino
    run(3, first)
    assert (tmp_path / "step=0000003.ckpt").is_file()
    assert first.stat().st_ino == before


def test_the_reference_is_still_the_first_student(student_folder: Path, shards: Path, tmp_path: Path) -> None:
    """After a resume the policy pulls towards the weights that the run began with, not those of the checkpoint."""
    whole, first, second = stop_and_resume(
        lambda: grpo(student_folder, shards, {"loss": {"beta": 0.5}}, batch_size=2),
        tmp_path / "stop.ckpt",
        2,
        max_steps=4,
    )
    assert [logged["kl"] for logged in first.logged + second.logged] == [logged["kl"] for logged in whole.logged]
    assert second.logged[0]["kl"] > 1e-3


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_iterations(student_folder: Path, shards: Path, tmp_path: Path, stop: int) -> None:
    """Two steps on each window. A run stopped between them cannot resume bit for bit, for its rollout is lost; the
    window is sampled again for its remaining step, and every later step sees the same samples."""

    def make() -> tuple[Any, Any]:
        return grpo(student_folder, shards, {"num_iterations": 2}, batch_size=2)

    if stop % 2 == 0:
        assert_continues(*stop_and_resume(make, tmp_path / "stop.ckpt", stop, max_steps=6))
        return
    module, data = make()
    whole = fit(module, data, max_steps=8)
    module, data = make()
    first = fit(module, data, StopAfter(stop, tmp_path / "stop.ckpt"), max_steps=8)
    module, data = make()
    second = fit(module, data, ckpt_path=tmp_path / "stop.ckpt", max_steps=8)
    assert first.ids + second.ids == whole.ids
    assert second.logged[0]["clip_ratio/region_mean"] == 0, "sampled by the policy that it updates"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, r"data\.seed"),
        ({"shuffle": False}, r"data\.shuffle"),
        ({"batch_size": 1}, r"data\.batch_size"),
        ({"batch_size": 4}, r"data\.batch_size"),
        ({"batch_size": 1, "accumulate_grad_batches": 4}, r"trainer\.accumulate_grad_batches"),
        ({"batch_size": 4, "accumulate_grad_batches": 1}, r"trainer\.accumulate_grad_batches"),
        ({"num_iterations": 2}, r"model\.num_iterations"),
        ({"train": "other"}, r"data\.train"),
    ],
    ids=str,
)
def test_changed_settings_are_refused(
    student_folder: Path, shards: Path, tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    if "train" in change:
        change = {"train": str(write_shards(tmp_path / "other", count=9))}
    path = tmp_path / "stop.ckpt"
    module, data = grpo(student_folder, shards, batch_size=2)
    fit(module, data, StopAfter(1, path), max_steps=3)
    for_data = {name: change[name] for name in ("seed", "shuffle", "batch_size", "train") if name in change}
    for_module = {name: change[name] for name in ("num_iterations",) if name in change}
    accumulate = change.get("accumulate_grad_batches", 2)
    module, data = grpo(student_folder, shards, for_module, **{"batch_size": 2, **for_data})
    with pytest.raises(ValueError, match=rf"cannot resume.*{named}"):
        fit(module, data, ckpt_path=path, max_steps=3, accumulate_grad_batches=accumulate)


CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"optimizer": optimizer(**SCHEDULE, learning_rate=5e-4)}, "optimizer.learning_rate (0.01 then, 0.0005 now)"),
    ({"loss": {"beta": 0.5}}, "model.loss.beta (0.04 then, 0.5 now)"),
    ({"num_generations": 4}, "num_generations"),
    ({"sampling": {"temperature": 0.5}}, "model.sampling.temperature"),
]


@pytest.mark.parametrize(("change", "named"), CHANGES, ids=str)
def test_a_changed_objective_is_refused(
    student_folder: Path, shards: Path, tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    path = tmp_path / "stop.ckpt"
    fit(*grpo(student_folder, shards), StopAfter(1, path), max_steps=3)
    with pytest.raises(ValueError, match=rf"cannot resume.*{re.escape(named)}.*resume_with_changes"):
        fit(*grpo(student_folder, shards, change), ckpt_path=path, max_steps=3)


def test_changes_that_are_allowed_take_effect(student_folder: Path, shards: Path, tmp_path: Path) -> None:
    path = tmp_path / "stop.ckpt"
    fit(*sft(student_folder, shards), StopAfter(1, path), max_steps=3)
    changed = {"learning_rate": 5e-4, "schedule": "constant", "weight_decay": 0.5, "betas": (0.8, 0.9), "eps": 1e-5}
    other = write_shards(tmp_path / "other", count=9)
    module, data = sft(student_folder, other, {"optimizer": optimizer(**changed), "resume_with_changes": True})
    run = fit(module, data, ckpt_path=path, max_steps=3)
    assert [step["learning_rate"] for step in run.logged] == pytest.approx([5e-4, 5e-4])
    decayed, plain = module.trainer.optimizers[0].param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.5, 0.0)
    assert (tuple(plain["betas"]), plain["eps"]) == ((0.8, 0.9), 1e-5)


class Letters(VowelReward):
    """A reward of somebody's package, with arguments of its own."""

    name = "letters"

    def __init__(self, letters: str = "aeiou", per: Mapping[str, float] | None = None, **rest: Any) -> None:
        super().__init__(**rest)
        self.letters = letters

    def score(self, completions: Any) -> list[float]:
        return [sum(c in self.letters for c in done.text) / (1 + len(done.text)) for done in completions]


class OtherLetters(Letters):
    """Scores as `Letters` does, under the same name."""


@pytest.fixture(scope="module")
def rewarded(student_folder: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a run with two rewards."""
    path = tmp_path_factory.mktemp("rewarded") / "stop.ckpt"
    rewards = (FormatReward(), Letters(per={"a": 1.0}, weight=2.0))
    fit(*grpo(student_folder, shards), *rewards, StopAfter(1, path), max_steps=3)
    return path


CHANGED_REWARDS: list[tuple[Callable[[], list[Any]], str]] = [
    (lambda: [FormatReward(), Letters(per={"a": 1.0}, weight=-1.0)], r"'letters'.*weight.*2\.0 then, -1\.0 now"),
    (lambda: [FormatReward(), Letters("ae", {"a": 1.0}, weight=2.0)], r"'letters'.*letters.*'aeiou' then, 'ae' now"),
    (lambda: [FormatReward(), Letters(per={"a": 2.0}, weight=2.0)], r"'letters'.*per\.a.*1\.0 then, 2\.0 now"),
    (lambda: [FormatReward(), OtherLetters(per={"a": 1.0}, weight=2.0)], r"'letters'.*\.Letters' then.*OtherLetters"),
    (lambda: [Letters(per={"a": 1.0}, weight=2.0)], r"reward 'format'.*removed"),
    (lambda: [FormatReward(), Letters(per={"a": 1.0}, weight=2.0), LengthReward()], r"reward 'length'.*new"),
]


@pytest.mark.parametrize(("rewards", "named"), CHANGED_REWARDS, ids=range(len(CHANGED_REWARDS)))
def test_changed_rewards_are_refused(
    student_folder: Path, shards: Path, rewarded: Path, rewards: Callable[[], list[Any]], named: str
) -> None:
    with pytest.raises(ValueError, match=rf"cannot resume.*trainer\.callbacks.*{named}.*resume_with_changes"):
        fit(*grpo(student_folder, shards), *rewards(), ckpt_path=rewarded, max_steps=2)


def test_changed_rewards_that_are_allowed(student_folder: Path, shards: Path, rewarded: Path) -> None:
    module, data = grpo(student_folder, shards, {"resume_with_changes": True})
    assert fit(module, data, FormatReward(), ckpt_path=rewarded, max_steps=2).logged


def test_rewards_in_another_order_and_other_logging_callbacks(
    student_folder: Path, shards: Path, rewarded: Path
) -> None:
    callbacks = (Throughput(), Letters(per={"a": 1.0}, weight=2), FormatReward())
    assert fit(*grpo(student_folder, shards), *callbacks, ckpt_path=rewarded, max_steps=2).logged


def test_a_checkpoint_of_an_earlier_version_is_refused(
    student_folder: Path, shards: Path, rewarded: Path, tmp_path: Path
) -> None:
    old = torch.load(rewarded, weights_only=True)
    del old["avrt"]["rewards"]
    torch.save(old, tmp_path / "old.ckpt")
    with pytest.raises(ValueError, match="version"):
        fit(*grpo(student_folder, shards), FormatReward(), ckpt_path=tmp_path / "old.ckpt", max_steps=2)


def test_renamed_settings_need_permission(student_folder: Path, shards: Path, rewarded: Path, tmp_path: Path) -> None:
    """Checkpoints from before `loss:` and `sampling:` were groups hold flat names."""
    old = torch.load(rewarded, weights_only=True)
    settings = old["avrt"]["settings"]
    settings["beta"] = settings.pop("loss.beta")
    torch.save(old, tmp_path / "old.ckpt")
    with pytest.raises(ValueError, match=r"model\.beta .*model\.loss\.beta .*resume_with_changes"):
        fit(*grpo(student_folder, shards), FormatReward(), ckpt_path=tmp_path / "old.ckpt", max_steps=2)
    allowed = grpo(student_folder, shards, {"resume_with_changes": True})
    assert fit(*allowed, FormatReward(), ckpt_path=tmp_path / "old.ckpt", max_steps=2).logged


def test_what_is_noted_of_a_reward() -> None:
    @dataclass(frozen=True)
    class Judge:
        model: str
        api_key: str = "secret"

    class Judged(RewardCallback):
        name = "judged"

        def __init__(self, judge: Any, temperatures: Any = (0.0, 1.0), api_key: str = "secret", **rest: Any) -> None:
            super().__init__(**rest)

    noted = describe_rewards([Judged(Judge("m"), api_key="hidden", weight=3)])["judged"]
    assert noted.pop("class").endswith("Judged")
    assert noted == {"weight": 3.0, "judge.model": "m", "temperatures": (0.0, 1.0)}
    assert describe_rewards([copy.deepcopy(Letters("x"))])["letters"]["letters"] == "x"
    assert describe_rewards([pickle.loads(pickle.dumps(Letters("x")))])["letters"]["letters"] == "x"
