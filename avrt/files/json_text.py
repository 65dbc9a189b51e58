"""Decoding of JSON that others wrote, with every fault as a `ValueError`."""

from __future__ import annotations

import json
from typing import Any

MAX_DEPTH = 100
"""Levels of objects and arrays. Python's own limit depends on the caller, and what is read deeper cannot be copied."""


def decode_json(data: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: the text is not JSON (`json.JSONDecodeError`), is nested in more than `MAX_DEPTH` levels, or has a
            number of thousands of digits.
    """
    try:
        value = json.loads(data)
    except RecursionError:
        raise ValueError(f"it is nested in more than {MAX_DEPTH} levels") from None
    except ValueError as error:
        if "digits" in str(error):  # Python's own message advises to change its limit
            raise ValueError("it has a number of more than 4,300 digits") from None
        raise
    brackets = data.count("[") + data.count("{") if isinstance(data, str) else data.count(b"[") + data.count(b"{")
    if brackets > MAX_DEPTH and _is_deep(value):
        raise ValueError(f"it is nested in more than {MAX_DEPTH} levels")
    return value


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        inner = [v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list)]
        level = [child for values in inner for child in values]
        if not level:
            return False
    return True


def whole_text(text: str) -> str:
    """Text that UTF-8 can represent: a lone half of a surrogate pair, which JSON can contain, becomes U+FFFD.

    Not a question mark: that would turn an answer into a question.
    """
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
