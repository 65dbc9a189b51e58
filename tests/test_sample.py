"""Samples: their ids and their right answers."""

from __future__ import annotations

from typing import Any

import pytest

from avrt.sample import Sample, check_key


@pytest.mark.parametrize("key", ["a", "900001", "a-b_C", "x" * 80])
def test_keys(key: str) -> None:
    assert check_key(key) == key


@pytest.mark.parametrize("key", ["", "a.b", "a/b", "..", "a b", "é", "x" * 81, "a\n", None, 3])
def test_bad_keys(key: Any) -> None:
    with pytest.raises(ValueError, match="cannot name a sample"):
        check_key(key)


def test_right_answers() -> None:
    sample = Sample("a", "Which?", ("cat", "dog"), answer=1)
    assert [sample.is_right(letter) for letter in ("A", "B", "b", "", None)] == [False, True, False, False, False]
