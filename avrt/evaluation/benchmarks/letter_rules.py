"""Parts of official rules that several benchmarks share."""

from __future__ import annotations

import re
from collections.abc import Sequence


def first_letter(text: str, prefixes: Sequence[str], letters: str) -> str | None:
    """The first of these capital letters anywhere in a text from which some phrases are removed, one after another."""
    for prefix in prefixes:
        text = text.replace(prefix, "")
    match = re.search(f"[{letters}]", text)
    return match[0] if match else None
