"""One finished call as the ledger stores it, as one JSON line, and the key by which it is found again."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from avrt.files.json_text import decode_json
from avrt.servers.outcome import Outcome, Status, read_finish_reason


@dataclass(frozen=True, kw_only=True)
class CallRecord(Outcome):
    """One finished call: its outcome, and what was called.

    Attributes:
        key: see `call_key`.
        stage, sample, model, revision: the readable parts of the key, for readers of the file.
    """

    key: str
    stage: str
    sample: str
    model: str = ""
    revision: str = ""

    @property
    def reply(self) -> str:
        """The whole reply; thinking that the server separated is put back in front of it."""
        return f"<think>{self.reasoning}</think>\n{self.text}" if self.reasoning else self.text


_FIELDS = (
    "key",
    "stage",
    "sample",
    "status",
    "text",
    "reasoning",
    "finish_reason",
    "usage",
    "latency",
    "attempts",
    "model",
    "revision",
    "error",
)
"""The keys of a ledger line, in order."""


def encode_record(record: CallRecord) -> bytes:
    """One line of a ledger file, with its line end; its last key is a CRC-32 of the rest.

    Raises:
        ValueError: the record has a value that JSON cannot represent.
    """
    content = {name: getattr(record, name) for name in _FIELDS}
    body = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8")
    return body[:-1] + f',"crc32":{zlib.crc32(body)}}}\n'.encode()


def decode_record(line: bytes) -> CallRecord:
    """The reverse of `encode_record`.

    Raises:
        ValueError: the line is not a record, or its bytes are not those that were written.
    """
    body, comma, crc = line.rstrip(b"\n").rpartition(b',"crc32":')
    if not comma or not crc.endswith(b"}") or not crc[:-1].isdigit() or int(crc[:-1]) != zlib.crc32(body + b"}"):
        raise ValueError("the checksum is missing or wrong")
    content: Any = decode_json(body + b"}")
    if set(content) != set(_FIELDS):
        raise ValueError("the fields are not those of a call record")
    record = CallRecord(**{**content, "status": Status(content["status"])})
    if record.status is Status.INTERRUPTED and read_finish_reason(record.finish_reason) != record.finish_reason:
        # Written by a version that did not know this word; the reply is complete.
        finish = read_finish_reason(record.finish_reason)
        return replace(record, status=Status.OK if finish == "stop" else Status.LENGTH, finish_reason=finish)
    return record


def media_hash(members: Mapping[str, Iterable[int]], names: Iterable[str]) -> str:
    """SHA-256 that identifies some media members of a sample; empty for none.

    It covers each member's name, size and CRC-32 as the shard's JSON member lists them, so a restart finds the finished
    calls of fifty thousand clips without reading their media. Reading a clip compares its bytes with that list, so a
    clip whose media changed has another hash.

    Args:
        members: ``{name: (size, crc32)}``, as in the record of a sample.
        names: the members that are sent with the call.
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

    The server's address, the time and the way in which the reply is parsed are not part of it.

    Args:
        stage: the teacher's name, or ``merge``.
        sample_id: the question.
        media: `media_hash` of the members that are sent.
        prompt: all text of the call, filled in.
        model, revision: the model and its commit.
        sampling: every parameter that is sent to the server.
    """
    return _digest([stage, sample_id, media, prompt, model, revision, dict(sampling)])


def _digest(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
