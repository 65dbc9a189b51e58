"""Several replies to one item: mean, pass@k and majority vote of samples, and the accuracy curve of thinking budgets.

The scores of a run are those of its first replies; the numbers here are beside them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from avrt.evaluation.records.record import FIRST, Record, Variant
from avrt.evaluation.statistics import pass_at_k, standard_error, wilson_interval
from avrt.sample import LETTERS

REPEATS = "repeats"
"""Key of `RunInfo.decoding`: replies sampled per item, if more than one."""
THINKING_CURVE = "thinking_curve"
"""Key of `RunInfo.decoding`: thinking budgets of which each reply has one more version, if any."""


MAX_REPEATS = 10_000
"""Of a run's replies per item; a run.json of others with more would only fill the memory."""


def expected_variants(decoding: Mapping[str, Any]) -> list[Variant]:
    """The replies that every item of a run has, by its decoding settings; `FIRST` is the first.

    Raises:
        ValueError: the settings, which a file of others may contain, are not numbers in their range.
    """
    repeats, curve = decoding.get(REPEATS, 1), decoding.get(THINKING_CURVE) or []
    if not isinstance(repeats, int) or not 1 <= repeats <= MAX_REPEATS:
        raise ValueError(f"run.json: `decoding.{REPEATS}` must be a whole number from 1 to {MAX_REPEATS:,}")
    if not isinstance(curve, list) or not all(isinstance(budget, int) and budget >= 0 for budget in curve):
        raise ValueError(f"run.json: `decoding.{THINKING_CURVE}` must be a list of whole numbers")
    return [(repeat, budget) for repeat in range(repeats) for budget in (None, *curve)]


def finished_items(records: Iterable[Record], variants: Sequence[Variant]) -> set[str]:
    """Ids of the items with a record of every reply that they should have."""
    found: dict[str, set[Variant]] = {}
    for record in records:
        found.setdefault(record.id, set()).add(record.variant)
    return {item for item, present in found.items() if present.issuperset(variants)}


def further_scores(records: Sequence[Record], decoding: Mapping[str, Any]) -> dict[str, Any]:
    """``repeats`` and ``thinking_curve`` of ``metrics.json``, each only where the run has it.

    Args:
        records: all scored records of a benchmark, in its order.
    """
    found: dict[str, Any] = {}
    if decoding.get(REPEATS, 1) > 1:
        found[REPEATS] = repeat_scores([record for record in records if record.thinking_budget is None])
    if decoding.get(THINKING_CURVE):
        found[THINKING_CURVE] = [
            curve_point([record for record in records if record.thinking_budget == budget], budget)
            for budget in (*sorted(decoding[THINKING_CURVE]), None)
        ]
    return found


def repeat_scores(records: Sequence[Record]) -> dict[str, Any]:
    """Numbers of k replies per item; an item with fewer replies (of an unfinished run) is left out.

    Keys: ``replies`` (k), ``items``; ``mean`` (accuracy over all replies, `standard_error` over items and
    `clustered_error` over clips); ``pass_at`` (k to the estimated share of items that k replies solve, for 1, 2, 4, ...
    and all); ``majority`` (accuracy of the most frequent answer, with Wilson's interval).
    """
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.id, []).append(record)
    k = max(map(len, groups.values()), default=0)
    whole = [group for group in groups.values() if len(group) == k]
    if not whole:
        return {"replies": 0, "items": 0, "mean": None, "pass_at": {}, "majority": None}
    right = [sum(bool(record.correct_strict) for record in group) for group in whole]
    means = np.array(right) / k
    majority = sum(majority_is_right(group) for group in whole)
    return {
        "replies": k,
        "items": len(whole),
        "mean": {
            "accuracy": sum(right) / (k * len(whole)),
            "standard_error": standard_error(means),
            "clustered_error": standard_error(means, [group[0].clip for group in whole]),
        },
        "pass_at": {
            str(tries): math.fsum(pass_at_k(k, c, tries) for c in right) / len(whole) for tries in _powers_of_two(k)
        },
        "majority": {
            "correct": majority,
            "accuracy": majority / len(whole),
            "interval": list(wilson_interval(majority, len(whole))),
        },
    }


def majority_is_right(replies: Sequence[Record]) -> bool:
    """Whether the answer of most replies is right; of equally frequent answers, the one given first counts.

    Replies without a clear answer have no vote. Options with the same text are one answer.
    """
    votes: Counter[str] = Counter()
    right: dict[str, bool] = {}
    for record in replies:
        if record.answer is not None:
            text = record.options[LETTERS.index(record.answer)].strip()
            votes[text] += 1
            right[text] = bool(record.correct_strict)
    # A counter keeps the order in which answers first came, and `max` takes the first of equals.
    return right[max(votes, key=lambda text: votes[text])] if votes else False


def curve_point(records: Sequence[Record], budget: int | None) -> dict[str, Any]:
    """Accuracy of the replies whose thinking was closed after `budget` tokens (None: not closed), and their length."""
    groups: dict[str, list[bool]] = {}
    clips: dict[str, str] = {}
    for record in records:
        groups.setdefault(record.id, []).append(bool(record.correct_strict))
        clips[record.id] = record.clip
    means = np.array([sum(group) / len(group) for group in groups.values()])
    tokens = [record.completion_tokens for record in records if record.completion_tokens is not None]
    return {
        "budget": budget,
        "items": len(groups),
        "accuracy": math.fsum(means) / len(means) if len(means) else None,
        "standard_error": standard_error(means),
        "clustered_error": standard_error(means, list(clips.values())),
        "completion_mean": math.fsum(tokens) / len(tokens) if tokens else None,
    }


def first_replies(records: Iterable[Record]) -> list[Record]:
    """The replies that the scores of a run are of."""
    return [record for record in records if record.variant == FIRST]


def _powers_of_two(most: int) -> list[int]:
    """1, 2, 4, ... below `most`, and `most`."""
    return [*(2**i for i in range(most.bit_length()) if 2**i < most), most]
