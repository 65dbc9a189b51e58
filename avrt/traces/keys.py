"""What makes two calls the same call: the ledger's key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any


def media_hash(members: Mapping[str, Iterable[int]], names: Iterable[str]) -> str:
    """SHA-256 that stands for some media members of a sample; empty for none.

    It covers each member's name, size and CRC-32 as the shard's JSON member lists them, so a restart finds out which
    of fifty thousand clips were asked about without reading their media. Reading a clip compares its bytes with that
    list, so a clip whose media changed has another hash.

    Args:
        members: ``{name: (size, crc32)}``, as in the record of a sample.
        names: the members that are sent along with the call.
    """
    chosen = {name: list(members[name]) for name in names}
    return _digest(chosen) if chosen else ""


def call_key(
    *,
    stage: str,
    sample_id: str,
    media: str,
    prompt: str,
    model: str,
    revision: str,
    sampling: Mapping[str, Any],
) -> str:
    """The key of one call (64 hexadecimal digits): equal calls have equal keys, on every machine and in every run.

    Where the call goes (the address), when, and how its reply will be parsed are not part of it.

    Args:
        stage: ``vision``, ``audio`` or ``merge``.
        sample_id: the question.
        media: `media_hash` of what is sent along.
        prompt: all text of the call, filled in.
        model, revision: the model, and which of its versions.
        sampling: every parameter sent to the server.
    """
    return _digest([stage, sample_id, media, prompt, model, revision, dict(sampling)])


def _digest(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
