"""Statements in replies about things seen and heard, as a model that reads the replies lists them.

With black frames nothing can be seen, and with silence nothing can be heard: a reply that reports it has made it up
(paper 0.A, missing modalities). The judge gets the question and the reply as text, no clip and no right answer.

``claims.jsonl`` has one line for each item with a reply, in the runs' order; of several replies to an item, the first:

================ =================================================================================================
key              value
================ =================================================================================================
``run``          name of the run
``benchmark``    name of the benchmark
``id``           id of the item
``modalities``   streams that the model got: ``AV``, ``A`` (black frames), ``V`` (silent audio)
``text_sha256``  SHA-256 of the reply (UTF-8)
``seen``         statements of the reply about what was seen, in its own words; null if the judge gave no verdict
``heard``        the same of what was heard
``error``        why there is no verdict; empty if there is one
================ =================================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from avrt.files.json_text import decode_json

CLAIMS_FILE = "claims.jsonl"
STREAMS = {"seen": "V", "heard": "A"}
"""The kinds of statements, with the stream that each is about."""


@dataclass(frozen=True)
class ReplyClaims:
    """One line of ``claims.jsonl``, see the module."""

    run: str
    benchmark: str
    id: str
    modalities: str
    text_sha256: str
    seen: list[str] | None
    heard: list[str] | None
    error: str = ""

    def about(self, stream: str) -> list[str] | None:
        """The statements about a stream, ``V`` or ``A``."""
        (kind,) = (kind for kind, of in STREAMS.items() if of == stream)
        found: list[str] | None = getattr(self, kind)
        return found


def read_claims(path: str | Path) -> list[ReplyClaims]:
    """The lines of ``claims.jsonl``.

    Raises:
        ValueError: a line is damaged; names the file and the line.
        FileNotFoundError: there is no such file.
    """
    found = []
    for number, line in enumerate(_lines(path), 1):
        try:
            found.append(ReplyClaims(**decode_json(line)))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: line {number}: is not a line of claims.jsonl ({error})") from error
    return found


def _lines(path: str | Path) -> list[str]:
    # Not splitlines(), which also splits at characters such as U+2028 that a statement may have.
    return Path(path).read_text(encoding="utf-8").removesuffix("\n").split("\n")
