"""Calls to rollout servers, and what can become of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import aiohttp

CONNECT_SECONDS = 10
"""After which a machine that does not even refuse a connection counts as dead."""


class ServerError(Exception):
    """A server did not answer as it should; another one may."""


class RefusedPromptError(ValueError):
    """A server cannot take a prompt, and neither could another one."""


class NoServerLeftError(ValueError):
    """All servers failed, and prompts are without responses."""


def open_session(timeout: float) -> aiohttp.ClientSession:
    """A session for any number of calls at once.

    Args:
        timeout: seconds after which an answer is no longer waited for.
    """
    limits = aiohttp.ClientTimeout(total=timeout, sock_connect=CONNECT_SECONDS)
    return aiohttp.ClientSession(timeout=limits, connector=aiohttp.TCPConnector(limit=0))


async def each(
    urls: Sequence[str], call: Callable[[aiohttp.ClientSession, str], Awaitable[Any]], timeout: float
) -> dict[str, Any]:
    """The answer of each server to the same call, or its `ServerError`."""
    async with open_session(timeout) as session:

        async def one(url: str) -> Any:
            try:
                return await call(session, url)
            except ServerError as error:
                return error

        return dict(zip(urls, await asyncio.gather(*map(one, urls)), strict=True))


async def get_info(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    return await _call(session, "GET", f"{url}/info")


async def post(session: aiohttp.ClientSession, address: str, **content: Any) -> dict[str, Any]:
    """A server's answer.

    Raises:
        ServerError: there is none, it is not JSON, or the server cannot do it now.
        RefusedPromptError: it says that it never can.
    """
    return await _call(session, "POST", address, **content)


async def _call(session: aiohttp.ClientSession, method: str, address: str, **content: Any) -> dict[str, Any]:
    try:
        async with session.request(method, address, **content) as answer:
            body = await answer.json(content_type=None)
            status = answer.status
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise ServerError(f"{address}: {type(error).__name__} {error}".rstrip()) from error
    if not isinstance(body, dict):
        raise ServerError(f"{address}: status {status} without an answer")
    if status == 200:
        return body
    line = f"{address}: {body.get('error', f'status {status}')}"
    if status == 400 and address.endswith("/generate"):
        raise RefusedPromptError(line)
    raise ServerError(line)


def reasons(found: dict[str, Any]) -> str:
    """The errors among servers' answers, as one line."""
    errors = [f"{error}" for error in found.values() if isinstance(error, ServerError)]
    return "; ".join(errors[:3]) + (f"; and {len(errors) - 3} more" if len(errors) > 3 else "")
