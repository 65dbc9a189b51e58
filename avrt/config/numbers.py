"""Number types for settings: a value outside the range is refused where a config is parsed, with its key.

They constrain configs and the command line only. A parsed value is a plain `int` or `float`, so that nothing but plain
numbers reaches checkpoints and records.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jsonargparse.typing import register_type


def _register(name: str, kind: type, fits: Callable[[Any], bool], wording: str) -> type:
    def parse(value: Any) -> Any:
        try:
            number = None if isinstance(value, bool) else kind(value)
        except (ValueError, TypeError):
            number = None
        if number is None or (isinstance(value, float) and number != value) or not fits(number):
            raise ValueError(f"must be {wording}. Got value: {value}")
        return number

    named = type(name, (), {})
    register_type(named, serializer=kind, deserializer=parse, type_check=lambda value, _: False)
    return named


if TYPE_CHECKING:
    PositiveInt = int
    NonNegativeInt = int
    TwoOrMore = int
    PositiveFloat = float
    NonNegativeFloat = float
    ShareBelowOne = float
else:
    PositiveInt = _register("PositiveInt", int, lambda n: n > 0, "a whole number above 0")
    NonNegativeInt = _register("NonNegativeInt", int, lambda n: n >= 0, "a whole number from 0 on")
    TwoOrMore = _register("TwoOrMore", int, lambda n: n > 1, "a whole number above 1")
    PositiveFloat = _register("PositiveFloat", float, lambda x: 0 < x < math.inf, "a number above 0")
    NonNegativeFloat = _register("NonNegativeFloat", float, lambda x: 0 <= x < math.inf, "0 or a number above it")
    ShareBelowOne = _register("ShareBelowOne", float, lambda x: 0 <= x < 1, "a number from 0 to below 1")
