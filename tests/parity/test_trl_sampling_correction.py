"""Ratios, loss, gradients and metrics of the sampling correction are TRL's, on the same float64 tensors, to 1e-9."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from avrt.grpo.loss import LossConfig, grpo_loss
from avrt.grpo.sampling_correction import SamplingCorrectionConfig, SamplingRatios, sampling_ratios
from avrt.rollout.sampling_metrics import sampling_metrics
from tests.parity.test_trl_grpo import EXACT, MAX_LENGTH, Batch, gradient
from tests.parity.trl_oracle import END_TOKEN, trl_loss, trl_scored

CORRECTIONS = [
    SamplingCorrectionConfig(mode, high, low)  # type: ignore[arg-type]
    for mode, (low, high) in itertools.product(
        ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask"), ((None, 1.5), (0.8, 1.5), (0.8, None))
    )
]


class SampledBatch(Batch):
    """A batch whose engine's log-probabilities differ from the policy's; one token has none."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed=seed)
        g = torch.Generator().manual_seed(100 + seed)
        shift = 0.2 * torch.randn(len(self.mask), 1, dtype=torch.float64, generator=g)
        noise = 0.3 * torch.randn(self.mask.shape, dtype=torch.float64, generator=g)
        self.sampled = self.old + 0.2 * shift + noise
        self.sampled[0, 1] = torch.nan

    def rows(self, values: Tensor) -> list[list[float]]:
        return [row[mask].tolist() for row, mask in zip(values, self.mask, strict=True)]


def trls(batch: SampledBatch, correction: SamplingCorrectionConfig) -> tuple[Tensor, dict[str, float]]:
    ids = [[END_TOKEN] * int(length) for length in batch.mask.sum(1)]
    # TRL takes the engine's log-probabilities in the default type.
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        output, metrics = trl_scored(
            torch.rand(len(batch.mask), 1, dtype=torch.float64),
            4,
            "group",
            None,
            "sum_then_normalize",
            ids,
            correction=correction,
            logprobs=batch.old,
            sampled=batch.rows(batch.sampled),
        )
    finally:
        torch.set_default_dtype(before)
    return output["importance_sampling_ratio"], metrics


@pytest.mark.parametrize("correction", CORRECTIONS, ids=str)
@pytest.mark.parametrize("seed", [0, 1])
def test_ratios_and_metrics(correction: SamplingCorrectionConfig, seed: int) -> None:
    b = SampledBatch(seed)
    theirs, metrics = trls(b, correction)
    ours = sampling_ratios(b.old, b.sampled, b.mask, correction)
    torch.testing.assert_close(ours.values * ours.counted, theirs.double() * ours.counted, **EXACT)
    found = sampling_metrics(b.old, b.sampled, b.mask, ours)
    values = {name: float(total / weight) for name, (total, weight) in found.sums.items()}
    values |= {name: float(value) for name, value in (found.largest | found.smallest).items()}
    names = [name for name in metrics if name.startswith("sampling/")]
    assert len(names) == 5
    for name in names:
        assert values[name] == pytest.approx(metrics[name], rel=1e-6), name  # TRL logs float32 numbers
    if correction.mode.endswith("mask"):
        assert 0 < values["rollout_corr/rollout_rs_masked_fraction"] < 1, "the batch has ratios on both sides"


@pytest.mark.parametrize("correction", CORRECTIONS[1::3], ids=str)
@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo"])
def test_loss_and_gradient(correction: SamplingCorrectionConfig, loss_type: str) -> None:
    """The policy term is weighed, the KL term is not."""
    b = SampledBatch()
    config = LossConfig(type=loss_type, beta=0.04)  # type: ignore[arg-type]
    ratios = sampling_ratios(b.old, b.sampled, b.mask, correction).values
    ours = grpo_loss(b.logprobs, b.mask, b.advantages, config, b.normalizer(), b.old, b.ref, sampling_ratios=ratios)
    theirs, _ = trl_loss(
        b.logprobs, b.mask, b.advantages, config, MAX_LENGTH, b.old, b.ref, sampling_ratios=trls(b, correction)[0]
    )
    plain = grpo_loss(b.logprobs, b.mask, b.advantages, config, b.normalizer(), b.old, b.ref)
    torch.testing.assert_close(ours.loss, theirs, **EXACT)
    torch.testing.assert_close(gradient(ours.loss, b.logprobs), gradient(theirs, b.logprobs), **EXACT)
    assert (ours.loss - plain.loss).abs() > 1e-4


def test_equal_distributions_change_nothing() -> None:
    b = SampledBatch()
    for mode in ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask"):
        ratios: SamplingRatios = sampling_ratios(b.old, b.old, b.mask, SamplingCorrectionConfig(mode))
        config = LossConfig()
        corrected = grpo_loss(
            b.logprobs, b.mask, b.advantages, config, b.normalizer(), b.old, b.ref, sampling_ratios=ratios.values
        )
        assert torch.equal(
            corrected.loss, grpo_loss(b.logprobs, b.mask, b.advantages, config, b.normalizer(), b.old, b.ref).loss
        )
