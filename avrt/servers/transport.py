"""aiohttp-based transport for the `openai` client.

The client's own transport is pure Python and costs more than everything else in a call. aiohttp's parser is compiled,
and its pool costs the same for 8 connections as for 800.

openai has such a transport too (its extra ``aiohttp``), but reports a broken connection as a connection timeout; here
the two are different, see `avrt.servers.failures`.
"""

from __future__ import annotations

import ssl
import zlib

import aiohttp
import httpx2

from avrt.servers.failures import BadReplyError

KEEP_ALIVE_SECONDS = 2.0
"""An idle connection is closed well before uvicorn's 5 seconds: if both ends close it at the same time, a call that was
just sent over it fails."""


MAX_BODY_BYTES = 64 * 2**20
"""Longest answer, decompressed: 10 million tokens have fewer bytes. A server without end would fill the memory."""
COMPRESSED = ("gzip", "deflate")


class AiohttpTransport(httpx2.AsyncBaseTransport):
    """Sends each concurrent request over its own connection. Create it inside a running event loop.

    The environment's proxies and ``.netrc`` are ignored, redirects are returned, not followed.

    Args:
        context: for ``https`` addresses.
        connect_seconds: time to open a connection; no other time is limited here.
    """

    def __init__(self, context: ssl.SSLContext, connect_seconds: float) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS, ssl=context),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_seconds),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # without a limit
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request and read the whole answer.

        Raises:
            httpx2.ConnectError: no server listens.
            httpx2.ConnectTimeout: no connection in time.
            httpx2.ReadError: the connection broke, or the answer is not HTTP.
            BadReplyError: the answer is longer than `MAX_BODY_BYTES`, or compressed in a way that was not asked for.
        """
        request.headers["accept-encoding"] = ", ".join(COMPRESSED)
        try:
            async with self._session.request(
                request.method,
                str(request.url),
                headers=request.headers.multi_items(),
                data=await request.aread() or None,
                allow_redirects=False,
            ) as response:
                body = bytearray()
                async for part in response.content.iter_any():
                    body += part
                    if len(body) > MAX_BODY_BYTES:
                        raise BadReplyError(_TOO_LONG)
        except aiohttp.ClientConnectorError as error:
            raise httpx2.ConnectError(str(error)) from error
        except aiohttp.ServerTimeoutError as error:
            raise httpx2.ConnectTimeout(str(error)) from error
        except (aiohttp.ClientError, ConnectionError) as error:
            raise httpx2.ReadError(str(error)) from error
        encoding = response.headers.get("content-encoding", "").strip().lower()
        headers = [(name, value) for name, value in response.raw_headers if name.lower() != b"content-encoding"]
        content = _decompressed(bytes(body), encoding)
        return httpx2.Response(response.status, headers=headers, content=content, request=request)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._session.close()


_TOO_LONG = f"the answer is longer than {MAX_BODY_BYTES >> 20} MB"


def _decompressed(body: bytes, encoding: str) -> bytes:
    if encoding in ("", "identity"):
        return body
    if encoding not in COMPRESSED:
        raise BadReplyError(f"the answer is compressed with {encoding[:40]!r}")
    decompress = zlib.decompressobj(zlib.MAX_WBITS | 32)  # gzip or zlib, by its header
    try:
        content = decompress.decompress(body, MAX_BODY_BYTES)
    except zlib.error as error:
        raise BadReplyError(f"the answer does not decompress: {error}") from None
    if decompress.unconsumed_tail:
        raise BadReplyError(_TOO_LONG)
    return content
