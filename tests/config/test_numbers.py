"""Number types of settings: checked where a config is parsed, plain numbers afterwards."""

from __future__ import annotations

import io
import math
from argparse import ArgumentError
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser

from avrt.config.class_paths import allowed_prefixes, enforce
from avrt.config.errors import distil
from avrt.config.numbers import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, ShareBelowOne, TwoOrMore


@dataclass
class Numbers:
    """One setting of each type."""

    positive_int: PositiveInt = 1
    non_negative_int: NonNegativeInt = 0
    two_or_more: TwoOrMore = 2
    positive_float: PositiveFloat = 1.0
    non_negative_float: NonNegativeFloat = 0.0
    share: tuple[ShareBelowOne, ShareBelowOne] = (0.9, 0.999)
    optional: PositiveInt | None = None


class Owner:
    def __init__(self, group: Numbers, number: PositiveInt = 1) -> None:
        self.group = group
        self.number = number


def parser() -> ArgumentParser:
    enforce(allowed_prefixes(["tests"]))  # the policy of the process, which other tests may have set
    made = ArgumentParser(exit_on_error=False)
    made.add_subclass_arguments(Owner, "owner")
    return made


def parse(**group: Any) -> Numbers:
    settings = {"owner": {"class_path": f"{__name__}.Owner", "init_args": {"group": group}}}
    made = parser()
    found = made.instantiate(made.parse_object(settings)).owner.group
    assert isinstance(found, Numbers)
    return found


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("positive_int", 3, 3),
        ("positive_int", "3", 3),
        ("non_negative_int", 0, 0),
        ("two_or_more", 2, 2),
        ("positive_float", "2e-6", 2e-6),
        ("positive_float", 1, 1.0),
        ("non_negative_float", 0, 0.0),
        ("share", [0.0, 0.99], (0.0, 0.99)),
        ("optional", None, None),
        ("optional", 5, 5),
    ],
)
def test_values_are_plain_numbers(name: str, value: Any, expected: Any) -> None:
    """Another class would be pickled into checkpoints, which are read without code."""
    found = getattr(parse(**{name: value}), name)
    assert found == expected
    assert type(found) is type(expected)
    assert not isinstance(found, tuple) or {type(x) for x in found} == {float}
    torch.save({"value": found}, file := io.BytesIO())
    file.seek(0)
    assert torch.load(file, weights_only=True) == {"value": expected}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("positive_int", 0),
        ("positive_int", 2.5),
        ("positive_int", True),
        ("positive_int", "many"),
        ("non_negative_int", -1),
        ("two_or_more", 1),
        ("positive_float", 0.0),
        ("positive_float", math.inf),
        ("positive_float", math.nan),
        ("non_negative_float", -0.1),
        ("non_negative_float", math.nan),
        ("share", [0.9, 1.0]),
        ("optional", 0),
    ],
)
def test_others_are_refused_with_key_and_value(name: str, value: Any) -> None:
    with pytest.raises(ArgumentError) as error:
        parse(**{name: value})
    line = distil(str(error.value), lambda _: ())
    assert f"group.{name}" in line
    assert str(value[-1] if isinstance(value, list) else value) in line
    assert "\n" not in line


def test_the_command_line() -> None:
    words = [f"--owner={__name__}.Owner", "--owner.group.positive_float=0", "--owner.number=2"]
    with pytest.raises(ArgumentError) as error:
        parser().parse_args(words)
    assert "group.positive_float" in distil(str(error.value), lambda _: ())
