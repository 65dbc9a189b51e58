"""The folder for data that can be made or fetched again."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "AVRT_CACHE"


def cache_root() -> Path:
    """The folder named by ``AVRT_CACHE``; by default ``avrt`` in ``XDG_CACHE_HOME``, or in ``~/.cache``.

    Raises:
        ValueError: there is no home folder for it.
    """
    base = os.environ.get(CACHE_VARIABLE) or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "avrt"
    try:
        return Path(base).expanduser().resolve()
    except RuntimeError as error:  # a user without an entry and without HOME, as in containers
        raise ValueError(f"there is no home folder for cached data; set XDG_CACHE_HOME or {CACHE_VARIABLE}") from error
