"""aiohttp-based transport for the `openai` client.

The client's own transport is pure Python and costs more than everything else in a call. aiohttp's parser is compiled,
and its pool costs the same for 8 connections as for 800.

openai has such a transport too (its extra ``aiohttp``), but reports a broken connection as a connection timeout; here
the two are different, see `avrt.servers.failures`.
"""

from __future__ import annotations

import ssl

import aiohttp
import httpx2

KEEP_ALIVE_SECONDS = 2.0
"""An idle connection is closed well before uvicorn's 5 seconds: if both ends close it at the same time, a call that was
just sent over it fails."""


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
            auto_decompress=False,  # httpx does that, by the response's headers
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request and read the whole answer.

        Raises:
            httpx2.ConnectError: no server listens.
            httpx2.ConnectTimeout: no connection in time.
            httpx2.ReadError: the connection broke, or the answer is not HTTP.
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
