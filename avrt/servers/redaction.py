"""Keeps API keys out of everything that is written."""

from __future__ import annotations

from collections.abc import Callable

MASK = "[redacted]"


def redactor(secrets: list[str | None]) -> Callable[[str], str]:
    """A function that replaces every one of `secrets` in a text.

    Servers repeat the key they were sent in error messages ("Incorrect API key provided: ..."), so whatever a server
    says passes through here before it reaches the ledger, a log or an exception.
    """
    known = sorted({secret for secret in secrets if secret}, key=len, reverse=True)

    def redact(text: str) -> str:
        for secret in known:
            text = text.replace(secret, MASK)
        return text

    return redact
