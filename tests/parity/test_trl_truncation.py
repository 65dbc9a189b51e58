"""With truncated completions masked, loss, gradients and metrics are TRL's, from the completions to the numbers."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from avrt.grpo.loss import LossConfig, grpo_loss
from avrt.rewards import RewardTable
from avrt.rollout.window_rollout import Devices, device_advantages, step_normalizer
from avrt.sample import Completion
from tests.parity.test_trl_grpo import EXACT, MAX_LENGTH, Batch, gradient
from tests.parity.trl_oracle import END_TOKEN, trl_loss, trl_scored
from tests.tiny_student import make_sample

GROUP = 4
CONFIGS = [
    LossConfig(type=loss_type, beta=beta, importance_sampling_level=level, mask_truncated_completions=True)
    for loss_type, beta, level in itertools.product(
        ("grpo", "bnpo", "dr_grpo", "dapo"), (0.0, 0.04), ("token", "sequence")
    )
]


class TruncatedBatch(Batch):
    """The random responses of `Batch`, every third of them cut by the token limit, with rewards.

    Args:
        all_cut: every response is.
    """

    def __init__(self, all_cut: bool = False) -> None:
        super().__init__()
        self.cut = torch.ones(len(self.mask), dtype=torch.bool) if all_cut else torch.arange(len(self.mask)) % 3 == 0
        self.rewards = torch.rand(len(self.mask), 1, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
        lengths = self.mask.sum(dim=1).tolist()
        self.token_ids = [
            [7] * (n - 1) + [7 if cut else END_TOKEN] for n, cut in zip(lengths, self.cut.tolist(), strict=True)
        ]

    def ours(self, config: LossConfig, rows: slice) -> tuple[Tensor, dict[str, float]]:
        """Loss and metrics of some responses, from what `WindowRollout` makes of all of them."""
        sample = make_sample("video", 0)
        done = [
            Completion(sample, "", tuple(ids), (), "length" if cut else "stop")
            for ids, cut in zip(self.token_ids, self.cut.tolist(), strict=True)
        ]
        table = RewardTable({"one": self.rewards[:, 0]}, self.rewards[:, 0])
        advantages = device_advantages(table, torch.ones(1), GROUP, config, Devices()).advantages
        normalizer = step_normalizer(done, ~self.cut, MAX_LENGTH, Devices())
        out = grpo_loss(
            self.logprobs[rows],
            (self.mask & ~self.cut[:, None])[rows],
            advantages[rows],
            config,
            normalizer,
            self.old[rows],
            self.ref[rows] if config.beta else None,
            self.entropies[rows],
        )
        return out.loss, {name: float(total / weight) for name, (total, weight) in out.sums.items() if weight}

    def trls(self, config: LossConfig, rows: slice, micro_batches: int = 1) -> tuple[Tensor, dict[str, float]]:
        inputs, _ = trl_scored(
            self.rewards, GROUP, "group", None, "sum_then_normalize", self.token_ids, mask_truncated_completions=True
        )
        return trl_loss(
            self.logprobs[rows],
            inputs["completion_mask"][rows].bool(),
            inputs["advantages"][rows],
            config,
            MAX_LENGTH,
            self.old[rows],
            self.ref[rows] if config.beta else None,
            self.entropies[rows],
            micro_batches,
            int(inputs["num_items_in_batch"]),
        )


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_loss_gradient_and_metrics(config: LossConfig) -> None:
    b = TruncatedBatch()
    everything = slice(None)
    (ours, mine), (theirs, metrics) = b.ours(config, everything), b.trls(config, everything)
    torch.testing.assert_close(ours, theirs, **EXACT)
    found = gradient(ours, b.logprobs)
    torch.testing.assert_close(found, gradient(theirs, b.logprobs), **EXACT)
    assert not found[b.cut].any()
    assert found[~b.cut & b.mask[:, 0]].any()
    for name, value in mine.items():
        assert value == pytest.approx(metrics[name], rel=0, abs=6e-8 if "clip" in name else 1e-9), name


@pytest.mark.parametrize("config", [c for c in CONFIGS if c.type != "bnpo"], ids=str)
def test_micro_batches(config: LossConfig) -> None:
    b = TruncatedBatch()
    halves = (slice(0, 16), slice(16, 32))
    ours, theirs = sum(b.ours(config, half)[0] for half in halves), sum(b.trls(config, half, 2)[0] for half in halves)
    torch.testing.assert_close(ours, theirs, **EXACT)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_nothing_but_truncated_completions(config: LossConfig) -> None:
    b = TruncatedBatch(all_cut=True)
    loss, _ = b.ours(config, slice(None))
    assert float(loss) == float(b.trls(config, slice(None))[0]) == 0
    assert not gradient(loss, b.logprobs).any()
