"""The rollout of a window and its metrics, without a trainer."""

from __future__ import annotations

from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from avrt.grpo.advantage import Aggregation, GroupStatistics, RewardScale, group_advantages
from avrt.grpo.loss import LossConfig, Normalizer
from avrt.model.reference import FrozenCopy
from avrt.model.student import Student
from avrt.model.token_logprobs import TokenLogprobs, token_logprobs
from avrt.rewards import RewardCallback, RewardTable, compute_rewards
from avrt.rollout.builtin import TransformersRollout
from avrt.rollout.engine import Response, SamplingConfig
from avrt.rollout.groups import Generated
from avrt.rollout.metrics import count_tokens, rollout_metrics
from avrt.rollout.sampling_metrics import sampled_logprobs, sampling_metrics
from avrt.rollout.window_rollout import Devices, Rollout, WindowRollout, device_advantages, step_normalizer, stream_seed
from avrt.sample import Completion
from tests.lightning_modules.training import Given, VowelReward
from tests.tiny_student import KINDS, load_student, make_sample

SAMPLING = SamplingConfig(max_completion_length=6, seed=7)
GROUP = 3


@pytest.fixture(scope="module")
def student(student_folder: Path) -> Student:
    return load_student(student_folder)


def window_rollout(student: Student, sampling: SamplingConfig = SAMPLING, **settings: Any) -> WindowRollout:
    engine = TransformersRollout(student.language_model, sampling, student.eos_token_ids, student.banned_tokens)
    defaults: dict[str, Any] = {"engine": engine, "rewards": [VowelReward()], "reference": None, "sampling": sampling}
    return WindowRollout(student, **{**defaults, "num_generations": GROUP, **settings})


def roll_out(student: Student, epoch: int = 0, micro_batch_size: int = 2, **settings: Any) -> Rollout:
    prompts = [student.encoder.encode(make_sample(kind, i)) for i, kind in enumerate(KINDS)]
    return window_rollout(student, **settings).run(prompts, [epoch] * len(prompts), micro_batch_size)


def test_a_window(student: Student) -> None:
    """Every part of the rollout belongs to the same prompts and responses, and the reference is the student itself."""
    rollout = roll_out(student, reference=FrozenCopy(student.copy_language_model()))
    count = len(KINDS) * GROUP
    assert [len(group) for group in rollout.responses] == [GROUP] * len(KINDS)
    assert [c.sample.id for c in rollout.completions] == [
        make_sample(kind, i).id for i, kind in enumerate(KINDS) for _ in range(GROUP)
    ]
    flat = [response for group in rollout.responses for response in group]
    assert [c.token_ids for c in rollout.completions] == [tuple(r.token_ids.tolist()) for r in flat]
    assert [c.finish_reason == "stop" for c in rollout.completions] == [r.finished for r in flat]
    assert rollout.rewards.total.tolist() == pytest.approx(VowelReward().score(rollout.completions))
    assert torch.equal(rollout.statistics.advantages, group_advantages(rollout.rewards.total, GROUP).advantages)
    assert rollout.ref_logprobs is not None
    assert len(rollout.ref_logprobs) == count
    for reference, response in zip(rollout.ref_logprobs, flat, strict=True):
        torch.testing.assert_close(reference, response.logprobs, rtol=0, atol=1e-4)
    tokens = sum(len(r.token_ids) for r in flat)
    assert rollout.normalizer == Normalizer(count, tokens, float(tokens), 6)
    assert not rollout.old_logprobs
    assert not any(tensor.requires_grad for tensor in rollout.ref_logprobs)


def test_the_reference_does_not_depend_on_the_micro_batch(student: Student) -> None:
    reference = FrozenCopy(student.copy_language_model())
    one, all_at_once = (roll_out(student, micro_batch_size=n, reference=reference).ref_logprobs for n in (1, 8))
    assert one is not None
    assert all_at_once is not None
    for a, b in zip(one, all_at_once, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4)


def test_responses_depend_on_seed_epoch_and_sample(student: Student) -> None:
    def tokens(rollout: Rollout) -> list[tuple[int, ...]]:
        return [completion.token_ids for completion in rollout.completions]

    first = tokens(roll_out(student))
    assert tokens(roll_out(student)) == first
    assert tokens(roll_out(student, epoch=1)) != first
    assert tokens(roll_out(student, sampling=replace(SAMPLING, seed=8))) != first


def test_phases_are_measured_and_run_in_the_given_precision(student: Student) -> None:
    phases: list[str] = []
    inside: list[str] = []

    @contextmanager
    def timed(phase: str) -> Any:
        phases.append(phase)
        yield

    def precision() -> AbstractContextManager[None]:
        inside.append(phases[-1])
        return timed("precision")

    roll_out(student, timed=timed, precision=precision, reference=FrozenCopy(student.copy_language_model()))
    assert [phase for phase in phases if phase != "precision"] == [
        "embedding",
        "rollout",
        "rewards",
        "reference",
        "rewards",
        "rewards",
    ]
    assert inside == ["embedding", "rollout", "reference"]


# ---- several devices ------------------------------------------------------------------------------------------------


def two_devices(rank: int, other: Tensor) -> Devices:
    """This device and another one whose values are `other`."""

    def gather(values: Tensor) -> Tensor:
        return torch.cat([values, other] if rank == 0 else [other, values])

    return Devices(rank, 2, gather)


def test_truncated_responses_are_masked_on_request(student: Student) -> None:
    sampling = replace(SAMPLING, max_completion_length=120)
    rollout = roll_out(student, sampling=sampling, loss=LossConfig(mask_truncated_completions=True))
    flat = [response for group in rollout.responses for response in group]
    assert rollout.used.tolist() == [response.finished for response in flat]
    assert 0 < int(rollout.used.sum()) < len(flat)
    plain = roll_out(student, sampling=sampling)
    assert plain.used.all()
    assert torch.equal(rollout.statistics.advantages, plain.statistics.advantages)
    tokens = sum(len(response.token_ids) for response in flat if response.finished)
    assert rollout.normalizer == Normalizer(len(flat), tokens, float(tokens), 120)


def test_by_default_advantages_are_those_of_the_total() -> None:
    """Bit for bit: `RewardTable.total` is summed elsewhere."""
    scores = torch.rand(48, 5, generator=torch.Generator().manual_seed(0))
    scores[torch.rand(48, 5, generator=torch.Generator().manual_seed(1)) < 0.3] = torch.nan
    scores[:3] = torch.nan
    rewards: list[RewardCallback] = [Given(str(k), column, 0.3 + k) for k, column in enumerate(scores.T)]
    table = compute_rewards(rewards, [Completion(make_sample("audio", 1), "")] * 48)
    weights = torch.tensor([reward.weight for reward in rewards])
    found = device_advantages(table, weights, GROUP, LossConfig(), Devices())
    assert torch.equal(found.advantages, group_advantages(table.total, GROUP).advantages)
    torch.testing.assert_close(found.contributions.sum(1), found.advantages.double(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("aggregation", get_args(Aggregation))
def test_a_response_without_a_total_is_left_out(aggregation: Aggregation) -> None:
    """Whatever rewards it has: its group's advantages are those of the others."""
    scores = torch.rand(6, 2, generator=torch.Generator().manual_seed(0))
    loss, weights = LossConfig(multi_objective_aggregation=aggregation), torch.tensor([1.0, 0.5])

    def advantages(scores: Tensor) -> Tensor:
        table = RewardTable({"a": scores[:, 0], "b": scores[:, 1]}, total)
        return device_advantages(table, weights, GROUP, loss, Devices()).advantages

    total = (scores @ weights).index_fill(0, torch.tensor([1]), torch.nan)
    found = advantages(scores)
    assert found[1] == 0
    assert found[0] == pytest.approx(-float(found[2]), abs=1e-6)
    assert torch.equal(found, advantages(scores.index_fill(0, torch.tensor([1]), torch.nan)))


DIVISORS = [LossConfig(scale_rewards=scale) for scale in get_args(RewardScale)]


@pytest.mark.parametrize("loss", [*DIVISORS, LossConfig(multi_objective_aggregation="normalize_then_sum")], ids=str)
@pytest.mark.parametrize("rank", [0, 1])
def test_advantages_of_one_of_two_devices(loss: LossConfig, rank: int) -> None:
    """The batch's deviation is that of both devices; every device gets the advantages of its own responses."""
    scores = torch.rand(12, 2, generator=torch.Generator().manual_seed(0)) ** torch.tensor([1.0, 4.0])
    weights = torch.tensor([1.0, 0.5])
    gathered: list[Tensor] = []

    def both(part: Tensor, devices: Devices) -> GroupStatistics:
        table = RewardTable({"a": part[:, 0], "b": part[:, 1]}, part @ weights)
        return device_advantages(table, weights, GROUP, loss, devices)

    both(scores[6:] if rank == 0 else scores[:6], Devices(gather=lambda part: gathered.append(part) or part))
    expected = both(scores, Devices())
    found = both(scores[6 * rank : 6 * rank + 6], two_devices(rank, gathered[0]))
    assert torch.equal(found.advantages, expected.advantages.split(6)[rank])
    assert torch.equal(found.group_std, expected.group_std.split(2)[rank])
    assert torch.equal(found.zero_std, expected.zero_std.split(2)[rank])
    assert torch.equal(found.contributions, expected.contributions.split(6)[rank])


def test_normalizer_of_two_devices() -> None:
    done = [Completion(make_sample("audio", 1), "", token_ids=(1,) * n) for n in (3, 4)]
    devices = two_devices(0, torch.tensor([10.0]))
    assert step_normalizer(done, torch.tensor([True, True]), 9, devices) == Normalizer(2, 7, 8.5, 9)
    assert step_normalizer(done, torch.tensor([False, True]), 9, devices) == Normalizer(2, 4, 7.0, 9)


def test_stream_seeds() -> None:
    seeds = {stream_seed(s, e, i) for s in range(3) for e in range(3) for i in ("a", "b", "ab")}
    assert len(seeds) == 27
    assert all(0 <= seed < 2**63 for seed in seeds)


# ---- metrics --------------------------------------------------------------------------------------------------------


def made_rollout(lengths: list[int], stopped: list[bool], rewards: list[float]) -> Rollout:
    """Two prompts of 5 and 7 tokens with made-up responses."""
    sample = make_sample("audio", 1)
    done = [
        Completion(
            sample, "<think>x</think><answer>A</answer>" if stop else "x", (1,) * n, (), "stop" if stop else "length"
        )
        for n, stop in zip(lengths, stopped, strict=True)
    ]
    total = torch.tensor(rewards)
    group = len(done) // 2
    prompts: Any = [torch.zeros(5), torch.zeros(7)]
    responses: Any = [done[:group], done[group:]]
    statistics = group_advantages(total, group)
    normalizer = Normalizer(len(done), sum(lengths), float(sum(lengths)), 10)
    table = RewardTable({"one": total}, total)
    used = torch.ones(len(done), dtype=torch.bool)
    generated = Generated([5, 7], done, table)
    return Rollout(prompts, responses, done, table, statistics, normalizer, None, used, generated, [0, 1])


def test_metrics_by_hand() -> None:
    rollout = made_rollout([2, 4, 10, 8], [True, True, False, True], [1.0, 0.0, 0.5, 0.5])
    metrics = rollout_metrics(rollout, Tensor.cpu)
    expected = {
        "completions/mean_length": 6.0,
        "completions/min_length": 2.0,
        "completions/max_length": 10.0,
        "completions/clipped_ratio": 0.25,
        "completions/mean_terminated_length": 14 / 3,
        "frac_reward_zero_std": 0.5,
        "reward": 0.5,
        "reward_std": 0.40824829,
        "rewards/one/mean": 0.5,
        "rewards/one/std": 0.40824829,
        "frac_zero_std/one": 0.5,
        "accuracy/pass@1": 0.0,
        "accuracy/pass@2": 0.0,
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    assert sum(value for name, value in metrics.items() if name.startswith("answers/")) == pytest.approx(1)
    assert count_tokens(rollout, Tensor.cpu) == 24 + 2 * 12


def test_metrics_of_two_devices_are_those_of_one_with_all_responses() -> None:
    lengths, stopped, rewards = [2, 4, 10, 8], [True, True, False, True], [1.0, 0.0, 0.5, 0.5]
    more_lengths, more_stopped, more_rewards = [1, 3, 5, 9], [False, True, True, True], [0.2, float("nan"), 0.1, 0.4]
    both = made_rollout(lengths + more_lengths, stopped + more_stopped, rewards + more_rewards)
    one, other = made_rollout(lengths, stopped, rewards), made_rollout(more_lengths, more_stopped, more_rewards)
    sent: list[Tensor] = []
    rollout_metrics(other, lambda values: sent.append(values) or values)  # type: ignore[func-returns-value]
    parts = iter(sent)

    def gather(values: Tensor) -> Tensor:
        return torch.cat([values, next(parts)])

    found, expected = rollout_metrics(one, gather), rollout_metrics(both, Tensor.cpu)
    # The group size differs, so metrics of groups are those of two groups on each device.
    groups = {"frac_reward_zero_std": 0.5, "frac_zero_std/one": 0.5, "accuracy/pass@2": 0.0}
    assert {name: found.pop(name) for name in groups} == groups
    for name in ("frac_reward_zero_std", "frac_zero_std/one", "accuracy/pass@4"):
        del expected[name]
    assert found == pytest.approx(expected)


def test_the_signal_of_each_reward_by_hand() -> None:
    """Four groups of three: right 3, 1, 0 and 2 times; a length reward differs in all, one applies to two groups."""
    sample = replace(make_sample("audio", 1), answer=1)
    letters = ["B", "B", "B", "A", "B", "A", "A", "?", "A", "B", "A", "B"]
    done = [Completion(sample, f"<think>x</think><answer>{letter}</answer>", (1,)) for letter in letters]
    nan = float("nan")
    scores = {
        "accuracy": torch.tensor([float(letter == "B") for letter in letters]),
        "length": torch.arange(12) / 7,
        "some": torch.tensor([1.0, 1.0, nan, nan, nan, nan, 1.0, 0.0, nan, nan, nan, nan]),
        "never": torch.full((12,), nan),
    }
    rollout = made_rollout([1] * 12, [True] * 12, [0.0] * 12)
    rollout.generated = Generated([5] * 4, done, RewardTable(scores, scores["accuracy"] + scores["length"]))
    metrics = rollout_metrics(rollout, Tensor.cpu)
    assert metrics["accuracy/pass@1"] == pytest.approx(6 / 12)
    assert metrics["accuracy/pass@3"] == pytest.approx(3 / 4)
    assert metrics["frac_reward_zero_std"] == 0
    assert {name: value for name, value in metrics.items() if name.startswith("frac_zero_std/")} == {
        "frac_zero_std/accuracy": 0.5,
        "frac_zero_std/length": 0.0,
        "frac_zero_std/some": 0.5,
    }


def test_shares_show_what_groups_without_accuracy_spread_learn() -> None:
    """All answers are right: every group has a signal, and it is the length reward's."""
    rollout = made_rollout([2, 4, 10, 8], [True] * 4, [1.0] * 4)
    accuracy, length = torch.ones(4), torch.tensor([0.1, 0.2, 0.5, 0.4])
    rollout.rewards = RewardTable({"accuracy": accuracy, "length": length}, accuracy + length)
    rollout.generated = Generated([5, 7], rollout.completions, rollout.rewards)
    rollout.statistics = group_advantages(torch.stack([accuracy, length], dim=1), 2)
    metrics = rollout_metrics(rollout, Tensor.cpu)
    assert metrics["frac_reward_zero_std"] == 0
    assert (metrics["advantage_share/accuracy"], metrics["advantage_share/length"]) == pytest.approx((0, 1))


def test_without_a_reward_that_applies_there_is_no_reward_metric() -> None:
    nan = float("nan")
    rollout = made_rollout([1, 2, 3, 4], [True] * 4, [nan] * 4)
    metrics = rollout_metrics(rollout, Tensor.cpu)
    assert not [name for name in metrics if name.startswith(("reward", "advantage"))]


@pytest.mark.parametrize("change", [0.0, 0.5])
def test_differences_from_the_engine(student: Student, change: float) -> None:
    rollout = roll_out(student)
    responses = [[Response(r.token_ids, r.logprobs + change, r.finished) for r in group] for group in rollout.responses]
    scores: TokenLogprobs = token_logprobs(
        student.language_model,
        rollout.prompts,
        [[r.token_ids for r in group] for group in responses],
        banned=student.banned_tokens,
    )
    found = sampling_metrics(scores.logprobs, sampled_logprobs(responses, scores.logprobs), scores.mask)
    total, count = found.sums["sampling/sampling_logp_difference/mean"]
    assert float(count) == rollout.normalizer.tokens
    assert float(total / count) == pytest.approx(change, abs=1e-4)
    assert float(found.largest["sampling/sampling_logp_difference/max"]) == pytest.approx(change, abs=1e-4)
