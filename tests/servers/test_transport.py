"""Answers of a server, byte for byte, and the transport's result."""

from __future__ import annotations

import asyncio
import gzip
import ssl

import httpx2
import pytest

from avrt.servers import transport
from avrt.servers.failures import BadReplyError
from avrt.servers.transport import AiohttpTransport

JSON = b'{"a": 1}'
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"


def ask(answer: bytes, *, port: int | None = None) -> tuple[httpx2.Response, bytes]:
    """Send one request to a server that answers with these bytes and closes; the response, and what the server got."""
    received = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.extend(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        await writer.drain()
        writer.close()

    async def main() -> httpx2.Response:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{port or server.sockets[0].getsockname()[1]}/v1/x%2Fy"
        transport = AiohttpTransport(ssl.create_default_context(), 5.0)
        async with server, httpx2.AsyncClient(transport=transport, trust_env=False) as client:
            return await client.post(url, content=b"{}", headers={"authorization": "Bearer k", "cookie": "c=1"})

    return asyncio.run(main()), bytes(received)


def test_a_request_is_sent_unchanged() -> None:
    response, received = ask(HEAD + b"set-cookie: c=2\r\ncontent-length: 8\r\n\r\n" + JSON)
    assert (response.status_code, response.json()) == (200, {"a": 1})
    head = received.decode().lower()
    assert head.startswith("post /v1/x%2fy http/1.1\r\n")
    for line in ("authorization: bearer k", "cookie: c=1", "content-length: 2"):
        assert head.count(f"\r\n{line}\r\n") == 1


@pytest.mark.parametrize(
    "answer",
    [
        HEAD + b"transfer-encoding: chunked\r\n\r\n5\r\n" + JSON[:5] + b"\r\n3\r\n" + JSON[5:] + b"\r\n0\r\n\r\n",
        HEAD + b"connection: close\r\n\r\n" + JSON,
        HEAD
        + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n%s" % (len(gzip.compress(JSON)), gzip.compress(JSON)),
    ],
    ids=["chunked", "until_the_end", "gzip"],
)
def test_a_body_is_read_in_every_form(answer: bytes) -> None:
    assert ask(answer)[0].json() == {"a": 1}


def test_a_redirect_is_returned() -> None:
    response, _ = ask(b"HTTP/1.1 302 Found\r\nlocation: http://elsewhere/\r\ncontent-length: 0\r\n\r\n")
    assert (response.status_code, response.headers["location"]) == (302, "http://elsewhere/")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"220 smtp ready\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-le",
        HEAD + b"content-length: 80\r\n\r\n" + JSON,
        HEAD + b"transfer-encoding: chunked\r\n\r\n5\r\n" + JSON[:3],
    ],
    ids=["nothing", "not_http", "half_a_head", "half_a_body", "half_a_chunk"],
)
def test_a_broken_answer_is_a_read_error(answer: bytes) -> None:
    with pytest.raises(httpx2.ReadError):
        ask(answer)


def test_no_listening_server_is_a_connect_error() -> None:
    with pytest.raises(httpx2.ConnectError):
        ask(b"", port=1)


@pytest.mark.parametrize(
    "answer",
    [
        HEAD + b"connection: close\r\n\r\n" + b" " * 3000,
        HEAD + b"content-length: 5000\r\n\r\n" + b" " * 5000,
        HEAD + b"content-encoding: gzip\r\nconnection: close\r\n\r\n" + gzip.compress(b" " * 100_000),
    ],
    ids=["without_end", "long", "compressed"],
)
def test_a_long_answer_is_not_kept(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MAX_BODY_BYTES", 2000)
    with pytest.raises(BadReplyError, match="the answer is longer than"):
        ask(answer)


@pytest.mark.parametrize("encoding", [b"br", b"gzip"])
def test_what_does_not_decompress(encoding: bytes) -> None:
    with pytest.raises(BadReplyError, match=r"the answer (is compressed with 'br'|does not decompress)"):
        ask(HEAD + b"content-encoding: " + encoding + b"\r\nconnection: close\r\n\r\n" + JSON)
