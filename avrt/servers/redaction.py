"""Removal of API keys from everything that is written."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

MASK = "[redacted]"

MIN_KEY_LENGTH = 8
"""Shorter keys are placeholders for servers without keys (``none``, ``EMPTY``), and ordinary words."""


def redactor(secrets: list[str | None]) -> Callable[[str], str]:
    """A function that replaces every one of `secrets` in a text.

    Servers repeat the key they were sent in error messages ("Incorrect API key provided: ..."), so all of a
    server's texts pass through here before they are cut and before they reach the ledger, a log or an exception. A key
    is also found as Python, JSON, HTML or a URL would write it.
    """
    keys = [secret for secret in secrets if secret and len(secret) >= MIN_KEY_LENGTH]
    known = sorted({form for key in keys for form in _written_forms(key)}, key=len, reverse=True)

    def redact(text: str) -> str:
        for secret in known:
            text = text.replace(secret, MASK)
        return text

    return redact


def _written_forms(key: str) -> list[str]:
    as_json, in_url = json.dumps(key)[1:-1], quote(key, safe="")
    lower = re.sub("%..", lambda code: code[0].lower(), in_url)
    return [key, repr(key)[1:-1], as_json, as_json.replace("/", "\\/"), html.escape(key), in_url, lower]


def redacted_json(value: Any, redact: Callable[[str], str]) -> Any:
    """A JSON value with `redact` applied to every text in it, the keys of objects included."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, list):
        return [redacted_json(item, redact) for item in value]
    if isinstance(value, dict):
        return {redact(str(name)): redacted_json(item, redact) for name, item in value.items()}
    return value
