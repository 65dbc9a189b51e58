"""Every statistic against scipy or statsmodels on random data."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from avrt.evaluation.statistics import holm, mcnemar_exact, paired_bootstrap, percentile_interval, wilson_interval


@given(st.integers(1, 20_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 0.999))
def test_wilson_equals_statsmodels(counts: tuple[int, int], confidence: float) -> None:
    correct, total = counts
    expected = proportion_confint(correct, total, alpha=1 - confidence, method="wilson")
    assert wilson_interval(correct, total, confidence) == pytest.approx(expected, abs=1e-12)


def test_wilson_at_the_ends() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(0, 10)[0] == 0.0
    assert wilson_interval(10, 10)[1] == 1.0
    # OmniBench at 56.3 %: plus and minus 2.9 points.
    low, high = wilson_interval(643, 1142)
    assert (high - low) / 2 == pytest.approx(0.0287, abs=1e-4)


@pytest.mark.parametrize(("correct", "total"), [(-1, 3), (4, 3), (1, 0)])
def test_wilson_refuses_impossible_counts(correct: int, total: int) -> None:
    with pytest.raises(ValueError, match="`correct`"):
        wilson_interval(correct, total)


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_equals_scipy_and_statsmodels(b: int, c: int) -> None:
    p = mcnemar_exact(b, c)
    assert p == pytest.approx(mcnemar([[7, b], [c, 9]], exact=True).pvalue, abs=1e-12)
    if b + c:
        assert p == pytest.approx(stats.binomtest(b, b + c, 0.5).pvalue, abs=1e-12)


def test_mcnemar_by_hand_and_for_large_counts() -> None:
    assert mcnemar_exact(0, 0) == 1.0
    assert mcnemar_exact(1, 5) == 2 * (1 + 6) / 64
    assert mcnemar_exact(5, 1) == mcnemar_exact(1, 5)
    assert mcnemar_exact(0, 5000) == 0.0  # smaller than any float, not an overflow
    assert mcnemar_exact(4000, 4300) == pytest.approx(stats.binomtest(4000, 8300, 0.5).pvalue, rel=1e-9)


def test_holm_equals_statsmodels() -> None:
    generator = np.random.default_rng(2)
    for size in (1, 2, 8, 20):
        for p_values in (generator.random(size) ** 4, np.round(generator.random(size), 1)):  # the latter with ties
            expected = multipletests(p_values, method="holm")[1]
            assert holm(list(p_values)) == pytest.approx(list(expected), abs=1e-12)


def test_holm_of_nothing() -> None:
    assert holm([]) == []


def test_bootstrap_has_the_distribution_of_drawing_items_one_by_one() -> None:
    generator = np.random.default_rng(3)
    a = generator.random(300) < 0.5
    b = np.where(generator.random(300) < 0.8, a, generator.random(300) < 0.7)
    fast = paired_bootstrap(a, b, resamples=40_000, seed=1)
    picks = generator.integers(0, 300, size=(40_000, 300))
    slow = (b.astype(float) - a)[picks].mean(axis=1)
    assert fast.mean() == pytest.approx(slow.mean(), abs=4 * slow.std() / 200)
    assert fast.std() == pytest.approx(slow.std(), rel=0.02)
    assert stats.ks_2samp(fast, slow).statistic < 0.015
    expected = stats.bootstrap(
        (a.astype(float), b.astype(float)),
        lambda x, y, axis: (y - x).mean(axis=axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=20_000,
        rng=np.random.default_rng(5),
    ).confidence_interval
    assert percentile_interval(fast) == pytest.approx((expected.low, expected.high), abs=0.004)


def test_bootstrap_is_seeded_and_exact_at_the_ends() -> None:
    a, b = [0, 1, 0, 1, 1], [1, 1, 0, 0, 1]
    assert (paired_bootstrap(a, b, seed=4) == paired_bootstrap(a, b, seed=4)).all()
    assert (paired_bootstrap(a, b, seed=4) != paired_bootstrap(a, b, seed=5)).any()
    assert (paired_bootstrap(a, a) == 0).all()
    assert (paired_bootstrap([0, 0], [1, 1]) == 1).all()


@pytest.mark.parametrize(("a", "b"), [([], []), ([1], [1, 0]), ([0.5], [1])])
def test_bootstrap_refuses_what_is_not_paired_outcomes(a: list, b: list) -> None:
    with pytest.raises(ValueError, match=r"items|outcomes"):
        paired_bootstrap(a, b)


def test_intervals_hold_what_they_promise() -> None:
    """About 95 in a hundred of the 95 % intervals of the difference contain the true one."""
    generator = np.random.default_rng(0)
    held = 0
    for trial in range(300):
        a = generator.random(400) < 0.5
        b = generator.random(400) < 0.6
        low, high = percentile_interval(paired_bootstrap(a, b, resamples=2000, seed=trial))
        held += low <= 0.1 <= high
    assert 0.91 <= held / 300 <= 0.985
