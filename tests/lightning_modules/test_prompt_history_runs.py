"""Curves of accuracy by earlier success in real runs: in the second pass, and resumed after any step."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from avrt.rollout import prompt_history
from avrt.rollout.prompt_history import KINDS
from avrt.text.answers import ParsedAnswer, parse
from lightning_modules.grpo import GRPOModule
from tests.lightning_modules.callbacks.tiny_runs import events, scalars
from tests.lightning_modules.training import StopAfter, fit, grpo_data, grpo_module, optimizer, write_shards

NAMES = {f"accuracy/{kind}" for kind in KINDS}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A window and a half: from the second window on, prompts are repeated."""
    return write_shards(tmp_path_factory.mktemp("s"), 6)


@pytest.fixture(autouse=True)
def _answers_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """The random student never writes the tags: a hash of its text chooses the letter instead."""

    def answer(text: str, sample: Any, *rest: Any, **more: Any) -> ParsedAnswer:
        draw = hashlib.sha256(text.encode()).digest()[0]
        return replace(parse(text, sample, *rest, **more), letter=sample.letters[draw % len(sample.letters)])

    monkeypatch.setattr(prompt_history, "parse", answer)


class Logged(GRPOModule):
    """Keeps the curves of each step; the trainer's own table also has those of earlier steps."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.curves: list[dict[str, float]] = []

    def log_dict(self, dictionary: Any, *args: Any, **settings: Any) -> None:
        super().log_dict(dictionary, *args, **settings)
        if "learning_rate" in dictionary:
            self.curves.append({name: value for name, value in dictionary.items() if name in NAMES})


def run(student: Path, shards: Path, path: Path, iterations: int, stop: int, **settings: Any) -> Logged:
    """Six optimizer steps, or a part of them, that leave the weights nearly as they are."""
    # A window that is rolled out again then gets the same responses.
    still = optimizer(learning_rate=1e-12)
    module = grpo_module(student, Logged, num_iterations=iterations, optimizer=still)
    fit(module, grpo_data(shards, batch_size=2), StopAfter(stop, path), max_steps=6, **settings)
    return module  # type: ignore[return-value]


@pytest.mark.parametrize("stop", [1, 2, 3, 5])
@pytest.mark.parametrize("iterations", [1, 2])
def test_the_curves_continue_after_a_resume(
    student_folder: Path, shards: Path, tmp_path: Path, stop: int, iterations: int
) -> None:
    whole = run(student_folder, shards, tmp_path / "whole.ckpt", iterations, stop=6)
    assert whole.curves[0].keys() == {"accuracy/new"}
    assert {"accuracy/new"} < whole.curves[iterations].keys()  # two new prompts and two repeated ones
    assert "accuracy/new" not in whole.curves[2 * iterations]
    assert len(whole.prompt_history) == 6
    run(student_folder, shards, tmp_path / "stop.ckpt", iterations, stop)
    resumed = run(student_folder, shards, tmp_path / "resumed.ckpt", iterations, 6, ckpt_path=tmp_path / "stop.ckpt")
    expected = whole.curves[stop:]
    if stop % iterations:
        expected[0] = whole.curves[stop - 1]  # the window is rolled out again for its remaining step
    assert resumed.curves == expected
    states = [
        torch.load(tmp_path / f"{name}.ckpt", weights_only=True)["avrt"]["prompt_history"]
        for name in ("whole", "resumed")
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_second_run_of_a_module_begins_anew(student_folder: Path, shards: Path) -> None:
    module = grpo_module(student_folder, Logged)
    for _ in range(2):
        module.curves = []  # type: ignore[attr-defined]
        fit(module, grpo_data(shards, batch_size=2), max_steps=1)
        assert module.curves[0].keys() == {"accuracy/new"}  # type: ignore[attr-defined]


def test_checkpoints_of_earlier_versions(student_folder: Path, shards: Path, tmp_path: Path) -> None:
    """They have no history: every prompt counts as new once more."""
    run(student_folder, shards, tmp_path / "stop.ckpt", 1, stop=2)
    old = torch.load(tmp_path / "stop.ckpt", weights_only=False)
    del old["avrt"]["prompt_history"]
    torch.save(old, tmp_path / "old.ckpt")
    resumed = run(student_folder, shards, tmp_path / "resumed.ckpt", 1, 6, ckpt_path=tmp_path / "old.ckpt")
    assert resumed.curves[0].keys() == {"accuracy/new"}


def test_a_step_without_a_kind_of_prompts_has_no_point(student_folder: Path, tmp_path: Path) -> None:
    """Lightning would log the value of an earlier step of the epoch again."""
    ten = write_shards(tmp_path / "s", 10)  # epochs of two steps: the third step has the last two new prompts
    settings = {"max_steps": 4, "logger": TensorBoardLogger(tmp_path, "", ""), "log_every_n_steps": 1}
    fit(grpo_module(student_folder), grpo_data(ten, batch_size=2), **settings)
    written = events(tmp_path)
    assert [step for step, _ in scalars(written, "accuracy/new")] == [0, 1, 2]
    assert [step for step, _ in scalars(written, "reward")] == [0, 1, 2, 3]
