"""Removal of API keys from everything that is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

MASK = "[redacted]"


def redactor(secrets: list[str | None]) -> Callable[[str], str]:
    """A function that replaces every one of `secrets` in a text.

    Servers repeat the key they were sent in error messages ("Incorrect API key provided: ..."), so all of a
    server's texts pass through here before they are cut and before they reach the ledger, a log or an exception. A key
    is also found as Python, JSON or a URL would write it.
    """
    forms = (str, lambda s: repr(s)[1:-1], lambda s: json.dumps(s)[1:-1], lambda s: quote(s, safe=""))
    known = sorted({form(secret) for secret in secrets if secret for form in forms}, key=len, reverse=True)

    def redact(text: str) -> str:
        for secret in known:
            text = text.replace(secret, MASK)
        return text

    return redact


def redacted_json(value: Any, redact: Callable[[str], str]) -> Any:
    """A JSON value with `redact` applied to every text in it, the keys of objects included."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, list):
        return [redacted_json(item, redact) for item in value]
    if isinstance(value, dict):
        return {redact(str(name)): redacted_json(item, redact) for name, item in value.items()}
    return value
