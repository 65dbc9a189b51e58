"""Config keys in front of the error messages of code that knows only its own names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def under_key(key: str) -> Iterator[None]:
    """Put a key in front of a ValueError's message: ``base_urls: ...`` becomes ``vision.base_urls: ...``."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{key}.{error}") from error
