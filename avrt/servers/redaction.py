"""Removal of API keys from everything that is written."""

from __future__ import annotations

from collections.abc import Callable

MASK = "[redacted]"


def redactor(secrets: list[str | None]) -> Callable[[str], str]:
    """A function that replaces every one of `secrets` in a text.

    Servers repeat the key they were sent in error messages ("Incorrect API key provided: ..."), so all of a
    server's texts pass through here before they reach the ledger, a log or an exception.
    """
    known = sorted({secret for secret in secrets if secret}, key=len, reverse=True)

    def redact(text: str) -> str:
        for secret in known:
            text = text.replace(secret, MASK)
        return text

    return redact
