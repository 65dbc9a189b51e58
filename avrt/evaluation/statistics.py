"""Intervals and tests for accuracies, and for the difference of two models on the same items.

Only numpy and the standard library; the tests compare every function with scipy or statsmodels.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 10_000
SEED = 0


def wilson_interval(correct: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion, the two limits in [0, 1]; (0, 1) where `total` is 0.

    (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n), with p = correct/total, n = total. Unlike the textbook interval
    it never leaves [0, 1] and holds its confidence near 0 and 1.

    Raises:
        ValueError: not 0 <= correct <= total, or a confidence outside (0, 1).
    """
    if not 0 <= correct <= total:
        raise ValueError(f"`correct` must be 0 to {total}, got {correct}")
    return wilson_of_share(correct / total if total else 0.0, float(total), confidence)


def wilson_of_share(p: float, total: float, confidence: float = 0.95) -> tuple[float, float]:
    """`wilson_interval` from a share `p`; `total` may be an effective number of items, which is not whole."""
    z = _quantile(confidence)
    if total == 0:
        return 0.0, 1.0
    z2 = z * z
    center = (p + z2 / (2 * total)) / (1 + z2 / total)
    half = z * math.sqrt(p * (1 - p) / total + z2 / (4 * total * total)) / (1 + z2 / total)
    # At the ends the limit is exactly 0 or 1; rounding must not say otherwise.
    return 0.0 if p == 0 else max(0.0, center - half), 1.0 if p == 1 else min(1.0, center + half)


def standard_error(values: ArrayLike, clusters: Sequence[Hashable] | None = None) -> float | None:
    """Standard error of a mean; with `clusters`, robust to dependence within them.

    √(G/(G−1) · Σ_c (Σ_{i∈c} (x_i − x̄))²) / n over G clusters, the sandwich estimate of a regression on a constant.
    Where every item is a cluster of its own this is s/√n with the sample standard deviation s. Questions about one
    clip are not independent, and then s/√n is too small.

    Args:
        values: one number per item.
        clusters: the cluster of each item, such as its clip; None for independent items.

    Returns:
        The standard error, or None for fewer than two clusters.

    Raises:
        ValueError: `clusters` has another length than `values`.
    """
    x = np.asarray(values, dtype=float)
    sums = cluster_sums(x - x.mean() if x.size else x, clusters)
    if sums.size < 2:
        return None
    return float(np.sqrt(sums.size / (sums.size - 1) * (sums @ sums)) / x.size)


def clustered_interval(
    outcomes: ArrayLike, clusters: Sequence[Hashable], confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of an accuracy whose items are dependent within clusters, the limits in [0, 1].

    Wilson's interval at the effective number of items p(1−p)/SE², with the clustered standard error SE. It is at most
    the number of items: a few clusters may agree by chance. Where all items are right, or all wrong, SE says nothing,
    and the number of clusters is taken.
    """
    x = _outcomes(outcomes).astype(float)
    error = standard_error(x, clusters)
    if error is None:
        return 0.0, 1.0
    p = float(x.mean())
    if p in (0.0, 1.0):
        return wilson_of_share(p, len(set(clusters)), confidence)
    # Divided by the larger number: the error of clusters with equal shares is 0, or what rounding leaves.
    by_item = math.sqrt(p * (1 - p) / x.size)
    return wilson_of_share(p, p * (1 - p) / max(error, by_item) ** 2, confidence)


def cluster_sums(values: NDArray[np.float64], clusters: Sequence[Hashable] | None) -> NDArray[np.float64]:
    """The sum of the values of each cluster, in the order in which clusters first occur; None: each value by itself.

    Raises:
        ValueError: `clusters` has another length than `values`.
    """
    if clusters is None:
        return values
    if len(clusters) != values.size:
        raise ValueError(f"`clusters` must have one entry per value, got {len(clusters)} for {values.size}")
    numbers: dict[Hashable, int] = {}
    places = [numbers.setdefault(cluster, len(numbers)) for cluster in clusters]
    return np.bincount(places, weights=values, minlength=len(numbers)).astype(np.float64)


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Probability that at least one of `k` replies is right, from `samples` replies of which `correct` are right.

    1 − C(n−c, k)/C(n, k): the unbiased estimate of Chen et al. 2021 (arXiv:2107.03374).

    Raises:
        ValueError: not 1 <= k <= samples, or not 0 <= correct <= samples.
    """
    if not (1 <= k <= samples and 0 <= correct <= samples):
        raise ValueError(f"needs 1 <= k <= samples and 0 <= correct <= samples, got {k=}, {samples=}, {correct=}")
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Exact two-sided McNemar test of two models on the same items.

    Args:
        only_first: items that only the first model answers right.
        only_second: items that only the second one answers right.

    Returns:
        The probability, if the models were equally good, that the items on which they differ are divided at least as
        unevenly as here: min(1, 2 P[Binomial(n, 1/2) <= min]); 1 where they never differ. Exact to the last digit
        for any n (integer arithmetic).
    """
    if only_first < 0 or only_second < 0:
        raise ValueError(f"counts must not be negative, got {only_first} and {only_second}")
    n, smaller = only_first + only_second, min(only_first, only_second)
    term, tail = 1, 0
    for k in range(smaller + 1):
        tail += term
        term = term * (n - k) // (k + 1)
    return min(1.0, (2 * tail) / (1 << n))


def sign_flip_test(changes: Sequence[int]) -> float:
    """Exact two-sided test of two models whose differences are dependent within clusters.

    If the models were equally good, each cluster's net change would have either sign with probability 1/2. For changes
    of −1, 0 and 1 this is `mcnemar_exact`.

    Args:
        changes: per cluster, the items that only the second model answers right minus those that only the first does.

    Returns:
        P[|Σ ±change| >= |Σ change|], computed by convolution.
    """
    sizes = [abs(change) for change in changes if change]
    total = sum(sizes)
    chances = np.zeros(2 * total + 1)  # of each sum from -total to total
    chances[total] = 1.0
    for size in sizes:
        moved = np.zeros_like(chances)
        moved[size:] += chances[: chances.size - size]
        moved[: chances.size - size] += chances[size:]
        chances = moved / 2
    extreme = np.abs(np.arange(-total, total + 1)) >= abs(sum(changes))
    return min(1.0, float(chances[extreme].sum()))


def paired_bootstrap(
    first: ArrayLike,
    second: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> NDArray[np.float64]:
    """Bootstrap distribution of the difference in accuracy, second minus first, on the same items.

    Items, or clusters with all their items, are drawn with replacement, both models' outcomes together. A resample is
    determined by how often each pair of change and number of items occurs in it, and these counts are multinomial.
    Drawing them instead of single clusters gives the same distribution.

    Args:
        first, second: right or wrong per item, ``[items]`` each, in the same order.
        clusters: each item's cluster; None where items are independent.
        resamples: number of draws.
        seed: seed of the draws; the same seed gives the same distribution.

    Returns:
        The differences in [−1, 1], ``[resamples]``.

    Raises:
        ValueError: lengths differ, or there are no items.
    """
    a, b = _outcomes(first), _outcomes(second)
    if a.shape != b.shape or a.size == 0:
        raise ValueError(f"two models must have outcomes on the same items, got {a.size} and {b.size}")
    changes = cluster_sums(b.astype(float) - a, clusters)
    sizes = cluster_sums(np.ones(a.size), clusters)
    kinds, counts = np.unique(np.stack([changes, sizes]), axis=1, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(changes.size, counts / changes.size, size=resamples)
    differences: NDArray[np.float64] = (drawn @ kinds[0]) / (drawn @ kinds[1])
    return differences


def percentile_interval(draws: NDArray[np.float64], confidence: float = 0.95) -> tuple[float, float]:
    """The central interval with a share of `confidence` of a bootstrap distribution."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction of p-values for several tests, in the order of the list.

    The i-th smallest of m is multiplied by m − i + 1, kept monotone and at most 1.
    """
    m = len(p_values)
    adjusted = [0.0] * m
    highest = 0.0
    for rank, index in enumerate(sorted(range(m), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (m - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def _outcomes(values: ArrayLike) -> NDArray[np.bool_]:
    array = np.asarray(values)
    if array.ndim != 1 or not np.isin(array, (0, 1)).all():
        raise ValueError("outcomes must be a list of right (true, 1) and wrong (false, 0)")
    return array.astype(bool)


def _quantile(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` must be between 0 and 1, got {confidence}")
    return NormalDist().inv_cdf((1 + confidence) / 2)
