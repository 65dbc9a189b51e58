"""A step that sampled with other weights is a warning; most of a window of steps ends the run."""

from __future__ import annotations

import math

import pytest

from avrt.rollout.sampling_check import SamplingCheck


def test_one_step_is_a_warning() -> None:
    check = SamplingCheck(0.25)
    assert check.note(1, 0.02) is None
    warning = check.note(2, 0.75)
    assert warning is not None
    assert "step 2: " in warning
    assert "0.75 on average" in warning
    assert "model.max_sampling_logp_difference is 0.25" in warning


def test_most_of_a_window_ends_the_run() -> None:
    check = SamplingCheck(0.25)
    for step in range(5):
        assert check.note(step, 3.0)
    with pytest.raises(ValueError, match=r"step 5: .*3\.00 on average.*in 6 of the last 6 steps"):
        check.note(5, 3.0)


def test_every_second_step_only_warns() -> None:
    check = SamplingCheck(0.25)
    assert sum(check.note(step, 3.0 * (step % 2)) is not None for step in range(100)) == 50


def test_values_that_are_not_finite_are_not_judged() -> None:
    """Such steps are skipped and reported anyway."""
    check = SamplingCheck(0.25)
    assert all(check.note(step, math.nan) is None for step in range(20))
