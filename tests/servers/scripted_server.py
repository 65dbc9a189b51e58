"""A local server that answers chat completions by a script: right replies, and every fault that servers show."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any


@dataclass
class Reply:
    """One answer.

    Attributes:
        text: of the completion.
        finish: its finish_reason.
        status: HTTP status; anything but 200 sends `text` as the error message.
        fault: ``hang``, ``reset``, ``broken_json``, ``half_body``, ``no_choices`` or ``html`` instead of the answer.
        headers: extra ones.
        message: fields that override those of the completion's message.
        body: sent instead of a completion, as JSON.
    """

    text: str = ""
    finish: str | None = "stop"
    status: int = 200
    fault: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    message: dict[str, Any] = field(default_factory=dict)
    body: Any = None


def read_form(kind: str, data: bytes) -> dict[str, Any]:
    """The fields of a form with a file, read by Python's own parser of such messages."""
    message = BytesParser(policy=HTTP).parsebytes(f"content-type: {kind}\r\n\r\n".encode() + data)
    form: dict[str, Any] = {}
    for part in message.iter_parts():  # type: ignore[attr-defined]
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        form[name] = content if part.get_filename() else content.decode()
    return form


class ScriptedServer:
    """Runs in a thread of the test.

    Args:
        respond: from the request's body, the text of its last part and how often that text was seen before, to an
            answer.
        latency: seconds before each answer.
        models: what ``/v1/models`` lists.
        under: every other path is answered with 404.

    Attributes:
        seen: requests by text.
        bodies: every request's body, in order of arrival.
        headers: every request's headers.
        peak: most requests in flight at once.
    """

    def __init__(
        self,
        respond: Callable[[dict[str, Any], str, int], Reply],
        latency: float = 0.0,
        models: tuple[str, ...] = ("m",),
        under: str = "/",
    ) -> None:
        self.respond, self.latency, self.models, self.under = respond, latency, models, under
        self.seen: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[str] = []
        self.peak = 0
        self.in_flight = 0
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def __enter__(self) -> ScriptedServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        """Listen, on the port of the last time."""
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()

    def stop(self) -> None:
        """Stop listening and break every connection."""
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()

    async def _start(self) -> None:
        self._connections: set[asyncio.StreamWriter] = set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=2**24)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        self._server.close()
        for writer in list(self._connections):
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            while await self._serve_one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, OSError):  # the client is gone
            pass
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        fields = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head.split("\r\n")[1:])}
        data = await reader.readexactly(int(fields.get("content-length", 0)))
        if not head.split(" ")[1].startswith(self.under):
            await self._send(writer, 404, b'{"detail": "Not Found"}', {})
            return True
        if head.startswith("GET"):
            listing = [{"id": name, "object": "model", "created": 0, "owned_by": "t"} for name in self.models]
            await self._send(writer, 200, json.dumps({"object": "list", "data": listing}).encode(), {})
            return True
        if head.split(" ")[1].endswith("/audio/transcriptions"):
            body = read_form(fields["content-type"], data)
            text = f"transcription of {hashlib.sha256(body['file']).hexdigest()}"
        else:
            body = json.loads(data)
            text = body["messages"][-1]["content"][-1]["text"]
        times = self.seen[text]
        self.seen[text] += 1
        self.bodies.append(body)
        self.headers.append(head)
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            if self.latency:
                await asyncio.sleep(self.latency)
        finally:
            self.in_flight -= 1
        return await self._answer(writer, self.respond(body, text, times))

    async def _answer(self, writer: asyncio.StreamWriter, reply: Reply) -> bool:
        message = {"role": "assistant", "content": reply.text, **reply.message}
        completion = {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": "m",
            "choices": [{"index": 0, "message": message, "finish_reason": reply.finish}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        }
        content = json.dumps(completion if reply.body is None else reply.body).encode()
        if reply.status != 200 and reply.body is None:
            content = json.dumps({"error": {"message": reply.text}}).encode()
        match reply.fault:
            case "hang":
                await asyncio.sleep(3600)
            case "reset":
                # Linger of zero: the connection ends with a RST, not an orderly close.
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
                return False
            case "half_body":
                head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
                writer.write(head.encode() + content[: len(content) // 2])
                await writer.drain()
                writer.close()
                return False
            case "broken_json":
                content = content[:-20] + b"]]}"
            case "no_choices":
                content = b'{"object": "chat.completion", "choices": []}'
            case "html":
                await self._send(writer, 200, b"<html>Bad gateway</html>", {"content-type": "text/html"})
                return True
        await self._send(writer, reply.status, content, reply.headers)
        return True

    async def _send(self, writer: asyncio.StreamWriter, status: int, content: bytes, headers: dict[str, str]) -> None:
        fields = {"content-type": "application/json", "content-length": str(len(content)), **headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        writer.write(f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode() + content)
        await writer.drain()
