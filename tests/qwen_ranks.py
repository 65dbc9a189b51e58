"""Qwen's published tokenizer as a byte-level BPE vocabulary and its merges, from the ranks file in `dashscope`."""

from __future__ import annotations

import base64
from functools import cache
from itertools import pairwise
from pathlib import Path

import dashscope
from transformers.convert_slow_tokenizer import bytes_to_unicode

RANKS_FILE = Path(dashscope.__file__).parent / "resources" / "qwen.tiktoken"


def merges_of(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Recover the merge that made each token: encode its bytes with only the lower ranks, and two parts remain."""
    merges = []
    for token, rank in ranks.items():
        if len(token) == 1:
            continue
        parts = [bytes([byte]) for byte in token]
        while len(parts) > 2:
            joined = [ranks.get(left + right, rank) for left, right in pairwise(parts)]
            best = min(range(len(joined)), key=joined.__getitem__)
            assert joined[best] < rank, f"no merge leads to {token!r}"
            parts[best : best + 2] = [parts[best] + parts[best + 1]]
        merges.append((parts[0], parts[1]))
    return merges


@cache
def qwen_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The 151,643 ordinary tokens with their ids, and the 151,387 merges, both in the letters of byte-level BPE."""
    lines = (line.split() for line in RANKS_FILE.read_bytes().splitlines())
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    letters = bytes_to_unicode()

    def spelled(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    vocabulary = {spelled(token): rank for token, rank in ranks.items()}
    return vocabulary, [(spelled(left), spelled(right)) for left, right in merges_of(ranks)]
