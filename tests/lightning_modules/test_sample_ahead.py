"""Sampling one window ahead: which weights sample, what a run learns from, and that it resumes exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from avrt.data.writer import ShardWriter
from avrt.grpo.group_selection import DynamicSamplingConfig
from avrt.grpo.sampling_correction import SamplingCorrectionConfig
from avrt.model.encoding import Prompt
from avrt.rollout.builtin import TransformersRollout
from avrt.rollout.engine import Response, SamplingConfig
from avrt.rollout.vllm import VLLM
from avrt.rollout.window_rollout import stream_seed
from datamodules.grpo import GRPODataModule
from datamodules.sources import DataSource
from lightning_modules.run_engine import packed, unpacked
from tests.lightning_modules.callbacks.test_metrics_page import documented
from tests.lightning_modules.own_weights import OwnWeights
from tests.lightning_modules.test_resume import assert_continues, stop_and_resume
from tests.lightning_modules.training import StopAfter, fit, grpo_data, grpo_module, optimizer, write_shards
from tests.tiny_student import load_student, make_sample

CORRECTION = SamplingCorrectionConfig("token_truncate")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards"))


def ahead(folder: Path, shards: Path, engine: OwnWeights | None = None, **settings: Any) -> tuple[Any, Any]:
    """Module and data of a run whose weights change much from step to step."""
    defaults = {"rollout": engine or OwnWeights(ahead=True), "sample_ahead": True, "sampling_correction": CORRECTION}
    rate = optimizer(learning_rate=0.05)
    module = grpo_module(folder, **{**defaults, "optimizer": rate, "max_sampling_logp_difference": 1e9, **settings})
    return module, grpo_data(shards, batch_size=2)


class Windows(Callback):
    """Of every window: its prompts and their epochs, the weights when it begins, its responses and their staleness."""

    def __init__(self) -> None:
        self.prompts: list[list[Prompt]] = []
        self.epochs: list[list[int]] = []
        self.weights: list[dict[str, torch.Tensor]] = []
        self.responses: list[list[list[list[int]]]] = []
        self.staleness: list[set[int]] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch.first:
            model = module.student.language_model
            self.prompts.append(batch.window.prompts)
            self.epochs.append(batch.window.epochs)
            named = [*model.text_model.named_parameters(), ("head", model.head.weight)]
            self.weights.append({name: weight.detach().clone() for name, weight in named})
            groups = module.rollout.responses
            self.responses.append([[response.token_ids.tolist() for response in group] for group in groups])
            self.staleness.append({completion.staleness for completion in module.rollout.completions})


def sampled_with(
    folder: Path, weights: dict[str, torch.Tensor], prompts: Sequence[Prompt], epochs: Sequence[int]
) -> list[list[list[int]]]:
    """What the built-in engine samples with some weights."""
    student = load_student(folder)
    for name, weight in student.language_model.text_model.named_parameters():
        weight.data.copy_(weights[name])
    student.language_model.head.weight.data.copy_(weights["head"])
    sampling = SamplingConfig(max_completion_length=5)
    engine = TransformersRollout(student.language_model, sampling, student.eos_token_ids, student.banned_tokens)
    seeds = [stream_seed(0, epoch, prompt.sample.id) for epoch, prompt in zip(epochs, prompts, strict=True)]
    groups = engine.generate(student.embed(prompts), 3, seeds)
    return [[response.token_ids.tolist() for response in group] for group in groups]


@pytest.mark.parametrize("num_iterations", [1, 2])
def test_each_window_is_sampled_with_the_weights_of_the_window_before(
    student_folder: Path, shards: Path, num_iterations: int
) -> None:
    """Ten samples, windows of four: two windows a pass. The first of a pass is sampled when it begins."""
    found, engine = Windows(), OwnWeights(ahead=True)
    module, data = ahead(student_folder, shards, engine, num_iterations=num_iterations)
    run = fit(module, data, found, max_steps=5 * num_iterations)
    old = [0, 0, 2, 2, 4]  # the window whose weights sampled each
    moved = 0
    for number, (prompts, epochs, responses) in enumerate(
        zip(found.prompts, found.epochs, found.responses, strict=True)
    ):
        weights = found.weights[old[number]]
        assert responses == sampled_with(student_folder, weights, prompts, epochs)
        moved += responses != sampled_with(student_folder, found.weights[number], prompts, epochs)
        assert found.staleness[number] == {(number - old[number]) * num_iterations}
    assert moved == 2, "the weights of the windows in which it is stale sample something else"
    staleness = [step["sampling/staleness/mean"] for step in run.logged[::num_iterations]]
    assert staleness == [0, num_iterations, 0, num_iterations, 0]
    assert engine.calls.count("begin") == 5, "nothing is sampled that no step is trained on"
    assert documented()["With sampling ahead of training"] <= run.logged[0].keys()


def test_stale_responses_are_corrected(student_folder: Path, shards: Path) -> None:
    """The first window's ratios are 1 up to rounding, those of a stale one are not."""
    module, data = ahead(student_folder, shards)
    first, second = fit(module, data, max_steps=2).logged
    assert first["sampling/sampling_logp_difference/max"] < 1e-4
    assert second["sampling/sampling_logp_difference/mean"] > 1e-3
    assert first["sampling/importance_sampling_ratio/mean"] == pytest.approx(1, abs=1e-4)
    assert abs(second["sampling/importance_sampling_ratio/mean"] - 1) > 1e-3


@pytest.mark.parametrize("num_iterations", [1, 2])
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_resumed_run_learns_from_the_same_responses(
    student_folder: Path, shards: Path, tmp_path: Path, stop: int, num_iterations: int
) -> None:
    """Bit for bit. (A window that is resumed between its steps is sampled again, with any engine; see below.)"""
    stop *= num_iterations
    runs = stop_and_resume(
        lambda: ahead(student_folder, shards, num_iterations=num_iterations),
        tmp_path / "stop.ckpt",
        stop,
        max_steps=stop + 2,
    )
    assert_continues(*runs)
    whole, first, second = runs
    names = ("sampling/staleness/mean", "sampling/sampling_logp_difference/mean")
    for ours, theirs in zip(first.logged + second.logged, whole.logged, strict=True):
        assert [ours.get(name) for name in names] == [theirs.get(name) for name in names]


def test_resuming_within_a_window_keeps_the_next_one(student_folder: Path, shards: Path, tmp_path: Path) -> None:
    engine = OwnWeights(ahead=True)

    def make(engine: OwnWeights | None = None) -> tuple[Any, Any]:
        return ahead(student_folder, shards, engine, num_iterations=2)

    found = Windows()
    fit(*make(), found, max_steps=4)
    fit(*make(), StopAfter(1, tmp_path / "stop.ckpt"), max_steps=4)
    again = Windows()
    fit(*make(engine), again, ckpt_path=tmp_path / "stop.ckpt", max_steps=4)
    assert again.responses[1] == found.responses[1]
    assert again.staleness == [{0}, {2}]
    assert engine.calls.count("begin") == 1, "the next window's responses were in the checkpoint"


def test_a_checkpoint_without_the_next_window(student_folder: Path, shards: Path, tmp_path: Path) -> None:
    """Such as one that was saved when the engine had failed."""
    path = tmp_path / "stop.ckpt"
    fit(*ahead(student_folder, shards), StopAfter(1, path), max_steps=4)
    checkpoint = torch.load(path, weights_only=False)
    assert checkpoint["avrt"]["sampled_ahead"] is not None
    checkpoint["avrt"]["sampled_ahead"] = None
    torch.save(checkpoint, path)
    found = Windows()
    fit(*ahead(student_folder, shards), found, ckpt_path=path, max_steps=4)
    assert found.staleness == [{0}, {0}, {1}]


def write_named(folder: Path, word: str) -> Path:
    """Ten samples with ids from 0 on."""
    with ShardWriter(folder, image_format="png", samples_per_shard=4) as writer:
        for number in range(10):
            sample = make_sample("audio_video", number + 100 * len(word), frames=4, audio_seconds=0.2)
            writer.write(replace(sample, id=str(number), source=word + sample.source, question=f"{word} {number}?"))
    return folder


def test_two_sources_with_the_same_ids(student_folder: Path, tmp_path: Path) -> None:
    """Every prompt has its own responses."""
    words = ("first", "another")
    sources: list[str | DataSource] = [DataSource(str(write_named(tmp_path / word, word)), name=word) for word in words]
    module, _ = ahead(student_folder, tmp_path / words[0])
    found = Windows()
    fit(module, GRPODataModule(train=sources, batch_size=2, num_workers=0), found, max_steps=4)
    questions = [{prompt.sample.question for prompt in prompts} for prompts in found.prompts]
    assert any(len({question.split()[1] for question in window}) < 4 for window in questions), "some share their id"
    for prompts, epochs, weights, responses in zip(
        found.prompts, found.epochs, [found.weights[number] for number in (0, 0, 1, 2)], found.responses, strict=True
    ):
        assert responses == sampled_with(student_folder, weights, prompts, epochs)


@pytest.mark.parametrize("change", ["data", "num_generations", "sampling"])
def test_changes_drop_what_was_sampled_before(student_folder: Path, tmp_path: Path, change: str) -> None:
    """The responses in the checkpoint are to other prompts, or sampled in another way."""
    shards = write_named(tmp_path / "first", "first")
    fit(*ahead(student_folder, shards), StopAfter(1, tmp_path / "stop.ckpt"), max_steps=3)
    settings: dict[str, Any] = {"data": {}, "num_generations": {"num_generations": 4}}.get(change, {})
    if change == "sampling":
        settings = {"sampling": {"temperature": 0.9}}
    if change == "data":
        shards = write_named(tmp_path / "second", "second")
    found = Windows()
    run = ahead(student_folder, shards, resume_with_changes=True, **settings)
    fit(*run, found, ckpt_path=tmp_path / "stop.ckpt", max_steps=3)
    assert found.staleness[0] == {0}


def test_responses_in_a_checkpoint() -> None:
    noise = torch.Generator().manual_seed(0)

    def response(length: int, finished: bool) -> Response:
        return Response(torch.arange(length) + length, torch.rand(length, generator=noise), finished)

    groups: dict[str, Sequence[Response]] = {
        "1-a": [response(5, True), response(1, False)],
        "2-b": [response(3, False), response(2, True)],
    }
    again = unpacked(packed(7, groups))
    assert again.step == 7
    assert again.keys == ["1-a", "2-b"]
    for group, found in zip(groups.values(), again.groups(again.keys), strict=True):
        for before, after in zip(group, found, strict=True):
            assert torch.equal(before.token_ids, after.token_ids)
            assert torch.equal(before.logprobs, after.logprobs)
            assert before.finished == after.finished
            assert len(after.token_ids.untyped_storage()) == 8 * len(after.token_ids), "no view of all of them"


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"rollout": "builtin"}, r"model\.sample_ahead: the built-in engine samples with the policy itself"),
        ({"sampling_correction": None}, r"model\.sample_ahead: .* set model\.sampling_correction"),
        (
            {"dynamic_sampling": DynamicSamplingConfig(["vowels"], 2)},
            r"model\.sample_ahead: with model\.dynamic_sampling",
        ),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], line: str, student_folder: Path, shards: Path) -> None:
    with pytest.raises(ValueError, match=line):
        ahead(student_folder, shards, **settings)


def test_an_engine_that_cannot(student_folder: Path, shards: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.sample_ahead: OwnWeights cannot sample while the policy is trained"):
        fit(*ahead(student_folder, shards, OwnWeights()))
    assert not hasattr(VLLM, "begin")
