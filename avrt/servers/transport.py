"""HTTP for the `openai` client by aiohttp, whose parser is compiled and whose pool costs the same for 8 connections as
for 800. The client's own transport is pure Python and costs more than all else that happens to a call.

openai ships such a transport too (its extra ``aiohttp``), but takes a connection that breaks for a time-out of
connecting, and here these two mean different things: see `avrt.servers.failures`.
"""

from __future__ import annotations

import ssl

import aiohttp
import httpx2

KEEP_ALIVE_SECONDS = 2.0
"""An idle connection is dropped well before uvicorn's 5 seconds: one that both ends close at the same time breaks the
call that was just sent over it."""


class AiohttpTransport(httpx2.AsyncBaseTransport):
    """Sends requests over as many connections as there are requests at once. Made inside a running event loop.

    The environment's proxies and ``.netrc`` are ignored, redirects are handed back as they come.

    Args:
        context: for ``https`` addresses.
        connect_seconds: time to open a connection. Nothing else is limited here.
    """

    def __init__(self, context: ssl.SSLContext, connect_seconds: float) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS, ssl=context),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_seconds),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # httpx does that, by the response's headers
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request and read the whole answer.

        Raises:
            httpx2.ConnectError: nothing listens.
            httpx2.ConnectTimeout: no connection in time.
            httpx2.ReadError: the connection broke, or what came over it is not HTTP.
        """
        try:
            async with self._session.request(
                request.method,
                str(request.url),
                headers=request.headers.multi_items(),
                data=await request.aread() or None,
                allow_redirects=False,
            ) as response:
                body = await response.read()
        except aiohttp.ClientConnectorError as error:
            raise httpx2.ConnectError(str(error)) from error
        except aiohttp.ServerTimeoutError as error:
            raise httpx2.ConnectTimeout(str(error)) from error
        except (aiohttp.ClientError, ConnectionError) as error:
            raise httpx2.ReadError(str(error)) from error
        return httpx2.Response(response.status, headers=response.raw_headers, content=body, request=request)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._session.close()
