"""The two requests of OpenAI-compatible servers that are used: a chat completion, and the transcription of audio."""

from __future__ import annotations

import base64
import io
import json
import wave
from collections.abc import Mapping
from typing import Any, Protocol

from avrt.servers.content import Content, audio_part, text_part
from avrt.servers.failures import BadReplyError
from avrt.servers.outcome import Outcome, Status
from avrt.servers.replies import raise_reported, read_reply


class CallProtocol(Protocol):
    """How a call is sent and its answer is read.

    Attributes:
        route: path of the request, below the server's address.
        title: the route in words, for error messages.
    """

    route: str
    title: str

    def encode(self, model: str, content: Content, parameters: Mapping[str, Any], system: str = "") -> dict[str, Any]:
        """A request, as arguments of the client's ``post``; `system` is the system message of a chat."""
        ...

    def probe(self, model: str) -> dict[str, Any]:
        """A small request, which shows that the route and the model are there."""
        ...

    def read(self, reply: object, max_tokens: int | None) -> Outcome:
        """The outcome of an answer with status 200; raises `ReportedError` or `BadReplyError`."""
        ...


class ChatProtocol:
    """``POST /chat/completions`` with one user message, and a system message if there is one."""

    route = "/chat/completions"
    title = "chat completions"

    def encode(self, model: str, content: Content, parameters: Mapping[str, Any], system: str = "") -> dict[str, Any]:
        messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": content})
        return {
            "content": json.dumps({"model": model, "messages": messages, **parameters}).encode(),
            "options": {"headers": {"content-type": "application/json"}},
        }

    def probe(self, model: str) -> dict[str, Any]:
        return self.encode(model, [text_part("Hello")], {"max_tokens": 1})

    def read(self, reply: object, max_tokens: int | None) -> Outcome:
        return read_reply(reply, max_tokens)


class TranscriptionProtocol:
    """``POST /audio/transcriptions``: a form with the audio as a WAV file; the answer is JSON with ``text``."""

    route = "/audio/transcriptions"
    title = "audio transcriptions"

    def encode(self, model: str, content: Content, parameters: Mapping[str, Any], system: str = "") -> dict[str, Any]:
        wav = base64.b64decode(next(part["input_audio"]["data"] for part in content if part["type"] == "input_audio"))
        return {
            "body": {"model": model, **parameters},
            "files": {"file": ("audio.wav", wav, "audio/wav")},
            "options": {"headers": {"content-type": "multipart/form-data"}},
        }

    def probe(self, model: str) -> dict[str, Any]:
        buffer = io.BytesIO()
        with wave.open(buffer, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16_000)
            file.writeframes(bytes(16_000))  # half a second of silence
        return self.encode(model, [audio_part(buffer.getvalue())], {"response_format": "json"})

    def read(self, reply: object, max_tokens: int | None) -> Outcome:
        if not isinstance(reply, dict):
            raise BadReplyError("not a transcription but something without fields")
        raise_reported(reply)
        text = reply.get("text")
        if not isinstance(text, str):
            raise BadReplyError("a transcription without text")
        return Outcome(Status.OK, text, "", "stop")


CHAT: CallProtocol = ChatProtocol()
TRANSCRIPTION: CallProtocol = TranscriptionProtocol()
