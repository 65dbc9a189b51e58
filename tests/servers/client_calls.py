"""A client of one or more scripted servers, for tests."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from avrt.servers.client import ServerClient
from avrt.servers.config import Model, ServerConfig
from avrt.servers.content import Content, text_part
from avrt.servers.outcome import Outcome
from tests.servers.scripted_server import Reply

MODEL = Model("m", "r", {"max_tokens": 8, "temperature": 0.5, "top_k": 3})
CONFIG = ServerConfig(
    ["-"], max_concurrency=4, request_timeout_seconds=0.5, max_attempts=4, backoff_seconds=0.01, server_wait_seconds=5
)


def message(text: str) -> Content:
    return [text_part(text)]


def call_all(
    urls: list[str], texts: list[str], *, key: str | None = None, model: Model = MODEL, **changes: Any
) -> list[Outcome]:
    async def main() -> list[Outcome]:
        config = replace(CONFIG, base_urls=urls, **changes)
        async with ServerClient("vision", config, model, key, random.Random(0)) as client:
            await client.check()
            return await asyncio.gather(*(client.call(message(text)) for text in texts))

    return asyncio.run(main())


def first_times(count: int, fault: Reply) -> Callable[[dict[str, Any], str, int], Reply]:
    """`fault` for the first `count` attempts of each call, then a good answer."""
    return lambda body, text, times: fault if times < count else Reply(f"answer to {text}")
