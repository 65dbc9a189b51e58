"""What replies of an evaluation claim to have seen and heard, by a model that reads them.

With black frames nothing can be seen, and with silence nothing can be heard: a reply that reports it has made it up
(paper 0.A, missing modalities). The judge gets the question and the reply as text, no clip and no right answer.

``claims.jsonl`` has one line for each reply, in the run's order:

================ =================================================================================================
key              value
================ =================================================================================================
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

import hashlib
from dataclasses import dataclass
from pathlib import Path

from avrt.files.json_text import decode_json

CLAIMS_FILE = "claims.jsonl"


@dataclass(frozen=True)
class ReplyClaims:
    """One line of ``claims.jsonl``, see the module."""

    benchmark: str
    id: str
    modalities: str
    text_sha256: str
    seen: list[str] | None
    heard: list[str] | None
    error: str = ""

    def about(self, stream: str) -> list[str] | None:
        """The statements about a stream, ``V`` or ``A``."""
        return {"V": self.seen, "A": self.heard}[stream]


def reply_digest(text: str) -> str:
    """SHA-256 of a reply."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def read_claims(path: str | Path) -> list[ReplyClaims]:
    """The lines of ``claims.jsonl``.

    Raises:
        ValueError: a line is damaged; names the file and the line.
        FileNotFoundError: there is no such file.
    """
    found = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        try:
            found.append(ReplyClaims(**decode_json(line)))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: line {number}: is not a line of claims.jsonl ({error})") from error
    return found
