"""Readers of untrusted input on random and damaged inputs: no crash, no hang, no memory beyond the limit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.mutation import mutated
from tests.fuzz.targets import TARGETS
from tests.programs import REPOSITORY, environment

FEW, MANY = 60, 10_000


def fuzz(name: str, count: int, seed: int, folder: Path) -> dict[str, int]:
    """Outcomes with their counts.

    Raises:
        AssertionError: the process failed; the message has its last lines, and ``folder/input`` is the input.
    """
    command = [sys.executable, "-m", "tests.fuzz.worker", name, str(count), str(seed), str(folder)]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=7200, check=False
    )
    assert done.returncode == 0, f"{folder / 'input'}: status {done.returncode}\n{done.stderr[-3000:]}"
    report = json.loads(done.stdout.splitlines()[-1])
    print(f"\n{name}: {report}")
    # Hypothesis leaves out inputs that it has drawn before; small strategies have some.
    assert report["inputs"] >= 0.9 * count
    return report["outcomes"]


@pytest.mark.parametrize("name", TARGETS)
def test_a_few_inputs(tmp_path: Path, name: str) -> None:
    assert len(fuzz(name, FEW, 1, tmp_path)) > 1, "every input had the same outcome"


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", TARGETS)
def test_ten_thousand_inputs(tmp_path: Path, name: str) -> None:
    assert len(fuzz(name, MANY, 2, tmp_path)) > 2


def test_mutations_change_and_repeat() -> None:
    import random

    data = bytes(range(256)) * 20
    changed = [mutated(data, random.Random(seed)) for seed in range(200)]
    assert changed == [mutated(data, random.Random(seed)) for seed in range(200)]
    assert len(set(changed)) > 190
    assert sum(len(result) < len(data) for result in changed) > 20
    assert sum(len(result) > len(data) for result in changed) > 20
