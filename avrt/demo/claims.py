"""What a reply of the demo's student says about a clip."""

from __future__ import annotations

import re

from avrt.demo.clips import COLORS, PITCHES

_SEEN = re.compile(rf"\bsee (?:an? |the )?({'|'.join(COLORS)})\b", re.IGNORECASE)
_HEARD = re.compile(rf"\bhear (?:an? |the )?({'|'.join(PITCHES)})\b", re.IGNORECASE)


def claims_stream(text: str, stream: str) -> bool:
    """Whether a reply states what was seen (``V``) or heard (``A``).

    With that stream masked there is nothing to see or to hear, so the statement is made up.
    """
    return bool(statements(text, stream))


def statements(text: str, stream: str) -> list[str]:
    """The reply's statements about a stream, in its own words."""
    pattern = {"V": _SEEN, "A": _HEARD}[stream]
    return [match[0] for match in pattern.finditer(text)]
