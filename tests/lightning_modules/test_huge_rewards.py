"""A reward that float32 cannot hold ends the run with one line that names it; as inf it would hide its whole group."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from avrt.rewards import RewardCallback
from tests.lightning_modules.training import fit, grpo_data, grpo_module, write_shards


class Huge(RewardCallback):
    name = "huge"

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    def score(self, completions: Any) -> list[Any]:
        return [self.value, *(0.0 for _ in completions[1:])]


@pytest.mark.parametrize(("value", "shown"), [(1e39, r"1e\+39"), (10**400, "a whole number of 1329 bits")])
def test_refused_by_name(student_folder: Path, tmp_path: Path, value: Any, shown: str) -> None:
    shards = write_shards(tmp_path / "shards", 4)
    with pytest.raises(ValueError, match=rf"reward 'huge': .*{shown} for sample '.*'; it must be") as raised:
        fit(grpo_module(student_folder), grpo_data(shards), Huge(value))
    assert "\n" not in str(raised.value)
