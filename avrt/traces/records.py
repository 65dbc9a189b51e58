"""One finished call as the ledger keeps it, as one JSON line."""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from avrt.servers.status import Status, read_finish_reason


@dataclass(frozen=True)
class CallRecord:
    """One finished call.

    Attributes:
        key: see `avrt.traces.keys.call_key`.
        stage, sample, model, revision: what the key was made of, for readers of the file.
        status: how it ended.
        text: the reply as the server sent it; special tokens and markers included. Empty where there is none.
        reasoning: thinking that the server had parsed out of the reply, as it sent it.
        finish_reason: ``stop`` or ``length`` where the server's word means that, else its own word.
        usage: ``prompt_tokens`` and ``completion_tokens`` as the server counted them.
        latency: seconds from the first attempt to the end, waiting included.
        attempts: how often the request was sent.
        error: what the last failed attempt said, or why the reply was interrupted, on one line.
    """

    key: str
    stage: str
    sample: str
    status: Status
    text: str = ""
    reasoning: str = ""
    finish_reason: str = ""
    usage: dict[str, int] = field(default_factory=dict)
    latency: float = 0.0
    attempts: int = 1
    model: str = ""
    revision: str = ""
    error: str = ""

    @property
    def reply(self) -> str:
        """The whole reply, with thinking that the server took out put back in front."""
        return f"<think>{self.reasoning}</think>\n{self.text}" if self.reasoning else self.text


_FIELDS = {item.name for item in fields(CallRecord)}


def encode_record(record: CallRecord) -> bytes:
    """One line of a ledger file, line end included; a CRC-32 of the rest stands last.

    Raises:
        ValueError: the record holds a value that JSON cannot.
    """
    content = asdict(record)
    body = _canonical(content)
    return body[:-1] + f',"crc32":{zlib.crc32(body)}}}\n'.encode()


def decode_record(line: bytes) -> CallRecord:
    """The reverse of `encode_record`.

    Raises:
        ValueError: the line is no record, or its bytes are not those that were written.
    """
    body, comma, crc = line.rstrip(b"\n").rpartition(b',"crc32":')
    if not comma or not crc.endswith(b"}") or not crc[:-1].isdigit() or int(crc[:-1]) != zlib.crc32(body + b"}"):
        raise ValueError("the checksum is missing or wrong")
    content: Any = json.loads(body + b"}")
    if set(content) != _FIELDS:
        raise ValueError("the fields are not those of a call record")
    record = CallRecord(**{**content, "status": Status(content["status"])})
    if record.status is Status.INTERRUPTED and read_finish_reason(record.finish_reason) != record.finish_reason:
        # Written before that word was known; the reply is as good as any.
        finish = read_finish_reason(record.finish_reason)
        return replace(record, status=Status.OK if finish == "stop" else Status.LENGTH, finish_reason=finish)
    return record


def _canonical(content: dict[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8")
