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


@pytest.mark.parametrize(("mode", "tokens", "responses"), [("token_mask", 2 / 3, 1.0), ("sequence_mask", 1 / 3, 0.5)])
def test_masked_shares(mode: str, tokens: float, responses: float) -> None:
    """Of tokens, and of responses with such a token, as in verl."""
    ratios = sampling_ratios(POLICY, SAMPLED, MASK, SamplingCorrectionConfig(mode, 3.0, 0.75))  # type: ignore[arg-type]
    sums = sampling_metrics(POLICY, SAMPLED, MASK, ratios).sums
    shares = [sums[f"rollout_corr/rollout_rs_{name}"] for name in ("masked_fraction", "seq_masked_fraction")]
    assert [float(total / weight) for total, weight in shares] == pytest.approx([tokens, responses])


def test_tokens_without_a_logprob() -> None:
    """They are counted and not compared; with none at all there is no difference, not one of 0."""
    some = torch.tensor([[-1.0, torch.nan], [-1.0, 5.0]])
    sums = sampling_metrics(POLICY, some, MASK).sums
    assert [float(x) for x in sums["sampling/missing_logprobs"]] == [1, 3]
    assert float(sums["sampling/sampling_logp_difference/mean"][1]) == 2
    none = sampling_metrics(POLICY, torch.full_like(SAMPLED, torch.nan), MASK)
    assert float(none.largest["sampling/sampling_logp_difference/max"]) == -math.inf
    assert float(none.sums["sampling/sampling_logp_difference/mean"][1]) == 0


def test_responses_without_part_in_the_loss_do_not_count() -> None:
    used = MASK & torch.tensor([[True], [False]])
    ratios = sampling_ratios(POLICY, SAMPLED, used, SamplingCorrectionConfig("token_truncate", 3.0))
    found = sampling_metrics(POLICY, SAMPLED, MASK, ratios)
    total, count = found.sums["sampling/importance_sampling_ratio/mean"]
    assert (float(total), float(count)) == (pytest.approx(2.5), 2)
    assert float(found.sums["sampling/sampling_logp_difference/mean"][1]) == 3, "the check is of all tokens"


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
