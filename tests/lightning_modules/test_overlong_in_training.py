"""The overlong reward in a run: its limit is the run's token limit."""

from __future__ import annotations

from pathlib import Path

import pytest

from avrt.rewards import OverlongReward
from tests.lightning_modules.training import fit, grpo_data, grpo_module


def test_in_training_the_limit_is_the_runs(student_folder: Path, shards: Path) -> None:
    """Completions of an untrained student reach the limit, where the punishment is whole."""
    reward = OverlongReward(soft_punish_cache=2)
    run = fit(
        grpo_module(student_folder, sampling={"max_completion_length": 3}), grpo_data(shards), reward, max_steps=1
    )
    assert run.logged[0]["completions/clipped_ratio"] == 1
    assert run.logged[0]["rewards/overlong/mean"] == -1


@pytest.mark.parametrize(("cache", "longest", "named"), [(2, 9, "max_completion_len"), (4, None, "soft_punish_cache")])
def test_a_punishment_that_no_completion_reaches(
    student_folder: Path, shards: Path, cache: int, longest: int | None, named: str
) -> None:
    module = grpo_module(student_folder, sampling={"max_completion_length": 3})
    with pytest.raises(ValueError, match=rf"^trainer.callbacks.OverlongReward: .*{named}"):
        fit(module, grpo_data(shards), OverlongReward(cache, longest), max_steps=1)
