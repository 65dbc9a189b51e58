"""Dynamic sampling and filtered groups in real runs of the tiny student."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from avrt.grpo.group_selection import DynamicSamplingConfig, has_spread
from avrt.rewards import FormatReward, RewardCallback
from avrt.rollout.window_rollout import Devices, Rollout, response_logprobs
from datamodules.windows import Window, WindowLoader
from tests.lightning_modules.callbacks.test_metrics_page import documented
from tests.lightning_modules.test_resume import assert_continues
from tests.lightning_modules.training import (
    Constant,
    Gradients,
    Recorder,
    StopAfter,
    VowelReward,
    fit,
    grpo_data,
    grpo_module,
    weights,
)
from tests.tiny_student import load_student

GROUP = 3


class FirstLetter(RewardCallback):
    """1 for a few completions: most groups of the random student have no spread in it."""

    name = "first"

    def score(self, completions: Any) -> list[float]:
        return [float(done.text[:1].lower() in tuple("aeioust")) for done in completions]


class Rollouts(Callback):
    """Every window and its rollout, after selection."""

    def __init__(self) -> None:
        self.windows: list[Window] = []
        self.rollouts: list[Rollout] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch.first:
            self.windows.append(batch.window)
            self.rollouts.append(module.rollout)


def dynamic(bound: int = 3, **settings: Any) -> dict[str, Any]:
    return {"dynamic_sampling": DynamicSamplingConfig(["first"], bound), **settings}


def train(folder: Path, shards: Path, *callbacks: Callback, steps: int = 4, data: Any = None, **settings: Any) -> Any:
    module = grpo_module(folder, **settings)
    rewards = (FirstLetter(), VowelReward())
    return fit(module, grpo_data(shards, batch_size=2, **(data or {})), *rewards, *callbacks, max_steps=steps)


def test_groups_without_spread_are_replaced(student_folder: Path, shards: Path) -> None:
    found = Rollouts()
    run = train(student_folder, shards, found, steps=6, **dynamic())
    for rollout, window, logged in zip(found.rollouts, found.windows, run.logged, strict=True):
        generated = rollout.generated
        drawn = len(generated.prompt_tokens)
        assert drawn in (4, 6, 8, 10, 12)
        spread = has_spread(generated.rewards.by_name["first"], GROUP).tolist()
        chosen = [i for i, differs in enumerate(spread) if differs][:4]
        chosen = sorted(chosen + [i for i, differs in enumerate(spread) if not differs][: 4 - len(chosen)])
        assert rollout.kept == chosen
        if drawn > 4:
            assert sum(spread[:-2]) < 4, "the last draw was needed"
        if sum(spread) < 4:
            assert drawn == 12, "the bound"
        ids = [generated.completions[GROUP * i].sample.id for i in range(drawn)]
        assert [prompt.sample.id for prompt in window.prompts] == [ids[i] for i in chosen]
        assert [c.sample.id for c in rollout.completions] == [ids[i] for i in chosen for _ in range(GROUP)]
        assert torch.equal(rollout.rewards.total, generated.rewards.total.view(-1, GROUP)[chosen].flatten())
        assert [len(p) for p in rollout.prompts] == [generated.prompt_tokens[i] for i in chosen]
        filled = 1 - sum(spread[i] for i in chosen) / 4
        assert logged["dynamic_sampling/prompts"] == drawn
        assert logged["dynamic_sampling/unused_share"] == pytest.approx(1 - 4 / drawn)
        assert logged["dynamic_sampling/filled_up"] == pytest.approx(filled)
        assert logged["rewards/first/mean"] == pytest.approx(float(generated.rewards.by_name["first"].mean()))
        assert logged["frac_zero_std/first"] == pytest.approx(1 - sum(spread) / drawn)
    assert {name for name in run.logged[0] if name.startswith("dynamic_sampling/")} == documented()[
        "With dynamic sampling"
    ]
    prompts = [len(rollout.generated.prompt_tokens) for rollout in found.rollouts]
    assert len(set(prompts)) > 1
    tokens = sum(rollout.generated.tokens for rollout in found.rollouts)
    assert run.logged[-1]["num_tokens"] == tokens


def test_a_group_is_scored_as_without_selection(student_folder: Path, shards: Path) -> None:
    """Advantages, reference and normalizer are those of a window that has the kept prompts from the beginning."""
    found = Rollouts()
    train(student_folder, shards, found, steps=1, **dynamic())
    rollout = found.rollouts[0]
    assert rollout.ref_logprobs is not None
    for reference, response in zip(
        rollout.ref_logprobs, [r for group in rollout.responses for r in group], strict=True
    ):
        torch.testing.assert_close(reference, response.logprobs, rtol=0, atol=1e-4)
    grouped = rollout.rewards.total.view(-1, GROUP)
    expected = (grouped - grouped.mean(1, keepdim=True)) / (grouped.std(1, keepdim=True) + 1e-4)
    torch.testing.assert_close(rollout.statistics.advantages, expected.flatten())
    assert rollout.normalizer.tokens == sum(len(c.token_ids) for c in rollout.completions)
    assert rollout.normalizer.responses == 4 * GROUP


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("stop", [1, 3])
def test_a_resumed_run_draws_the_same(
    student_folder: Path, shards: Path, tmp_path: Path, stop: int, workers: int
) -> None:
    seen: list[Rollouts] = []
    ends = []

    def run(*callbacks: Callback, **settings: Any) -> Any:
        seen.append(Rollouts())
        module, data = grpo_module(student_folder, **dynamic()), grpo_data(shards, batch_size=2, num_workers=workers)
        recorder = fit(module, data, FirstLetter(), VowelReward(), seen[-1], *callbacks, max_steps=5, **settings)
        ends.append(weights(module))
        return recorder

    whole = run()
    first = run(StopAfter(stop, tmp_path / "stop.ckpt"))
    second = run(ckpt_path=tmp_path / "stop.ckpt")
    assert_continues(whole, first, second)
    drawn = [[len(r.generated.prompt_tokens) for r in found.rollouts] for found in seen]
    assert drawn[1] + drawn[2] == drawn[0]
    assert sum(drawn[1]) > 4 * stop, "more was drawn before the stop than the windows hold"
    assert all(torch.equal(ends[2][name], value) for name, value in ends[0].items())


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_iterations(student_folder: Path, shards: Path, tmp_path: Path, stop: int) -> None:
    """Two steps on each window. Stopped between them, the window begins again at the same prompts."""
    runs = [Rollouts(), Rollouts()]

    def run(*callbacks: Callback, **settings: Any) -> Recorder:
        module = grpo_module(student_folder, num_iterations=2, **dynamic())
        rewards = (FirstLetter(), VowelReward())
        return fit(module, grpo_data(shards, batch_size=2), *rewards, *callbacks, max_steps=4, **settings)

    whole = run(runs[0])
    run(StopAfter(stop, tmp_path / "stop.ckpt"))
    second = run(runs[1], ckpt_path=tmp_path / "stop.ckpt")
    begins = [[c.sample.id for c in r.generated.completions[: 4 * GROUP]] for r in runs[0].rollouts]
    again = [[c.sample.id for c in r.generated.completions[: 4 * GROUP]] for r in runs[1].rollouts]
    assert len(begins) == 2
    assert again[0] == begins[stop // 2]
    assert len(second.losses) == 2 * (4 - stop)
    if stop % 2 == 0:
        assert (second.ids, second.losses) == (whole.ids[2 * stop :], whole.losses[2 * stop :])


def two_ranks(loader: WindowLoader, rank: int) -> WindowLoader:
    """The loader of one of two devices, with two prompts of each window."""
    return WindowLoader(
        loader.reader, loader.order, micro_batch_size=1, micro_batches=2, max_num_gen_batches=3, rank=rank, world_size=2
    )


def test_two_devices(student_folder: Path, shards: Path) -> None:
    """Each device fills its own part of the window, and all draw equally often; run as threads that gather."""
    module, data = grpo_module(student_folder, **dynamic()), grpo_data(shards, batch_size=2)
    fit(module, data, FirstLetter(), VowelReward(), max_steps=1)
    loaders = [two_ranks(data.window_loader, rank) for rank in range(2)]
    streams = [iter(loader) for loader in loaders]  # a window draws from its loader's
    windows = [next(stream).window for stream in streams]
    values: list[Any] = [None, None]
    barrier = threading.Barrier(2, timeout=60)
    turn = threading.Lock()  # the two share one student

    def work(rank: int) -> Rollout:
        def gather(value: torch.Tensor) -> torch.Tensor:
            values[rank] = value
            barrier.wait()
            both = torch.cat(list(values))
            barrier.wait()
            return both

        rollout = module.window_rollout()
        rollout.devices = Devices(rank, 2, gather)
        rollout.timed = lambda phase: turn if phase in ("embedding", "rollout", "reference") else threading.Lock()
        return rollout.run(windows[rank].prompts, windows[rank].epochs, 1, windows[rank].draw)

    with ThreadPoolExecutor(2) as pool:
        rollouts = list(pool.map(work, range(2)))
    sizes = [len(rollout.generated.prompt_tokens) for rollout in rollouts]
    assert sizes[0] == sizes[1] > 2
    ids = [[c.sample.id for c in rollout.generated.completions[::GROUP]] for rollout in rollouts]
    places = loaders[0].order.places(0, sum(sizes))
    expected = [loaders[0].reader[place.sample].sample.id for place in places]
    assert [key for pair in zip(*ids, strict=True) for key in pair] == expected
    spreads = [has_spread(rollout.generated.rewards.by_name["first"], GROUP).tolist() for rollout in rollouts]
    assert sizes[0] == 6 or min(map(sum, spreads)) >= 2, "both are full"
    assert min(sum(spread[: sizes[0] - 1]) for spread in spreads) < 2, "one of them needed the last draw"
    for rollout, spread in zip(rollouts, spreads, strict=True):
        assert len(rollout.kept) == 2
        assert sum(spread[i] for i in rollout.kept) == min(2, sum(spread))


# ---- filtered groups ------------------------------------------------------------------------------------------------


def test_filtered_groups_have_no_part_in_the_gradient(student_folder: Path, shards: Path) -> None:
    """The gradient is that of the other groups alone, divided by the number of all responses, as in TRL."""
    found, gradients = Rollouts(), Gradients()
    run = train(student_folder, shards, found, gradients, steps=1, filter_groups=["first"])
    rollout = found.rollouts[0]
    spread = has_spread(rollout.rewards.by_name["first"], GROUP)
    assert 0 < spread.sum() < 4
    assert rollout.used.tolist() == spread.repeat_interleave(GROUP).tolist()
    assert run.logged[0]["filter_groups/masked"] == pytest.approx(1 - float(spread.double().mean()))
    assert run.logged[0]["filter_groups/masked"] == pytest.approx(run.logged[0]["frac_zero_std/first"])

    student = load_student(student_folder)
    used = [i for i, differs in enumerate(spread.tolist()) if differs]
    scores = response_logprobs(
        student.language_model,
        [rollout.prompts[i] for i in used],
        [rollout.responses[i] for i in used],
        1.0,
        student.banned_tokens,
    )
    advantages = rollout.statistics.advantages.view(-1, GROUP)[used].flatten()
    means = (scores.logprobs * scores.mask).sum(1) / scores.mask.sum(1)
    (-(advantages * means).sum() / (4 * GROUP)).backward()  # type: ignore[no-untyped-call]
    expected = {name: p.grad for name, p in student.thinker.named_parameters() if p.grad is not None}
    assert expected.keys() == gradients.gradients[0].keys()
    for name, value in gradients.gradients[0].items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)


def test_a_step_without_any_group_has_no_gradient(student_folder: Path, shards: Path) -> None:
    rewards = (Constant(), VowelReward())
    norms = []
    for names in (None, ["constant"]):
        module = grpo_module(student_folder, filter_groups=names)
        run = fit(module, grpo_data(shards, batch_size=2), *rewards, max_steps=1)
        norms.append(run.logged[0]["grad_norm"])
    assert norms[0] > 0
    assert norms[1] == 0
    assert {name for name in run.logged[0] if name.startswith("filter_groups/")} == documented()["With filtered groups"]


# ---- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"dynamic_sampling": DynamicSamplingConfig()}, r"model\.dynamic_sampling\.rewards: 'accuracy'.*'format'"),
        ({"dynamic_sampling": DynamicSamplingConfig([])}, r"model\.dynamic_sampling\.rewards: is empty"),
        ({"filter_groups": ["format", "lenght"]}, r"model\.filter_groups: 'lenght'.*'format'"),
        ({"filter_groups": []}, r"model\.filter_groups: is empty"),
        (
            {"filter_groups": ["format"], "dynamic_sampling": DynamicSamplingConfig(["format"])},
            r"model\.filter_groups to null",
        ),
    ],
)
def test_wrong_rewards_are_refused_before_the_student_is_loaded(
    shards: Path, tmp_path: Path, settings: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        fit(grpo_module(tmp_path / "no student", **settings), grpo_data(shards, batch_size=2), FormatReward())


@pytest.mark.parametrize(
    ("then", "now", "named"),
    [
        (dynamic(2), dynamic(3), r"model\.dynamic_sampling\.max_num_gen_batches \(2 then, 3 now\)"),
        ({}, {"filter_groups": ["first"]}, r"model\.filter_groups"),
    ],
)
def test_changes_are_refused_at_a_resume(
    student_folder: Path, shards: Path, tmp_path: Path, then: dict[str, Any], now: dict[str, Any], named: str
) -> None:
    train(student_folder, shards, StopAfter(1, tmp_path / "stop.ckpt"), **then)
    module = grpo_module(student_folder, **now)
    with pytest.raises(ValueError, match=named):
        fit(
            module,
            grpo_data(shards, batch_size=2),
            FirstLetter(),
            VowelReward(),
            max_steps=3,
            ckpt_path=tmp_path / "stop.ckpt",
        )
