"""Ratios and metrics by hand. (TRL's numbers: tests/parity.)"""

from __future__ import annotations

import math

import pytest
import torch

from avrt.grpo.sampling_correction import SamplingCorrectionConfig, sampling_ratios
from avrt.rollout.sampling_metrics import SAMPLE_SIZE, SQUARE, sampling_metrics, with_sample_size

LN2 = math.log(2)
MASK = torch.tensor([[True, True], [True, False]])
SAMPLED = torch.tensor([[-1.0, -1.0], [-1.0, 5.0]])
POLICY = SAMPLED + torch.tensor([[LN2, -LN2], [2 * LN2, 9.0]])


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("token_truncate", [[2.0, 0.75], [3.0, 1.0]]),
        ("token_mask", [[2.0, 0.0], [0.0, 1.0]]),
        ("sequence_truncate", [[1.0], [3.0]]),
        ("sequence_mask", [[1.0], [0.0]]),
    ],
)
def test_ratios(mode: str, expected: list[list[float]]) -> None:
    """Token ratios 2, 1/2 and 4; products 1 and 4; bounds 0.75 and 3. Padding has ratio 1."""
    found = sampling_ratios(POLICY, SAMPLED, MASK, SamplingCorrectionConfig(mode, 3.0, 0.75))  # type: ignore[arg-type]
    torch.testing.assert_close(found.values, torch.tensor(expected))
    torch.testing.assert_close(found.masked, (found.values == 0) & found.counted)


def test_metrics() -> None:
    ratios = sampling_ratios(POLICY, SAMPLED, MASK, SamplingCorrectionConfig("token_truncate", 3.0))
    found = sampling_metrics(POLICY, SAMPLED, MASK, ratios)
    values = {name: float(total / weight) for name, (total, weight) in found.sums.items()}
    assert values["sampling/sampling_logp_difference/mean"] == pytest.approx(4 * LN2 / 3)
    assert values["rollout_corr/kl"] == pytest.approx(-2 * LN2 / 3)
    assert values["rollout_corr/k3_kl"] == pytest.approx((2 + 0.5 + 4 - 3 - 2 * LN2) / 3)
    assert float(found.largest["sampling/sampling_logp_difference/max"]) == pytest.approx(2 * LN2)
    assert float(found.largest["sampling/importance_sampling_ratio/max"]) == pytest.approx(3)
    assert float(found.smallest["sampling/importance_sampling_ratio/min"]) == pytest.approx(0.5)
    with_size = with_sample_size(values)
    # Ratios 2, 1/2 and 3 after the bound.
    assert with_size[SAMPLE_SIZE] == pytest.approx(5.5**2 / (3 * (4 + 0.25 + 9)))
    assert SQUARE not in with_size


def test_no_metric_of_ratios_without_a_correction() -> None:
    found = sampling_metrics(POLICY, SAMPLED, MASK)
    assert not [name for name in {**found.sums, **found.largest, **found.smallest} if "ratio" in name]
    values = {"loss": 1.0}
    assert with_sample_size(values) is values


def test_a_ratio_beyond_float32_stays_finite() -> None:
    far = sampling_ratios(POLICY + 500, SAMPLED, MASK, SamplingCorrectionConfig("sequence_mask", None, 0.5))
    assert far.values.square().isfinite().all()


@pytest.mark.parametrize(("low", "high", "words"), [(None, None, "both null"), (3.0, 2.0, "below clip_max")])
def test_bounds_that_exclude_each_other(low: float | None, high: float | None, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SamplingCorrectionConfig("token_mask", high, low)
