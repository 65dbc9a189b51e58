"""Accumulation as it follows from the prompts of one optimizer step."""

from __future__ import annotations

import pytest

from avrt.config.optimizer_steps import accumulation


@pytest.mark.parametrize(
    ("prompts_per_step", "batch_size", "devices", "expected"),
    [(32, 1, 4, 8), (32, 1, 1, 32), (32, 1, 8, 4), (32, 2, 4, 4), (1, 1, 1, 1)],
)
def test_micro_batches_of_a_step(prompts_per_step: int, batch_size: int, devices: int, expected: int) -> None:
    assert accumulation(prompts_per_step, batch_size, devices) == expected


@pytest.mark.parametrize(
    ("prompts_per_step", "batch_size", "devices", "named"),
    [
        (30, 2, 4, ["data.prompts_per_step is 30", "24 or 32"]),
        (32, 3, 4, ["24 or 36", "data.batch_size to 1 or 2"]),
        (32, 1, 3, ["30 or 33", "devices to 1 or 2"]),
        (2, 1, 4, ["set it to 4", "devices to 1 or 2"]),
    ],
)
def test_says_which_numbers_would_divide(
    prompts_per_step: int, batch_size: int, devices: int, named: list[str]
) -> None:
    with pytest.raises(ValueError) as error:
        accumulation(prompts_per_step, batch_size, devices)
    assert all(text in str(error.value) for text in named), error.value
    assert "\n" not in str(error.value)
