"""Which server gets the next call: a limit per server, calls in turn, and servers that stop answering and come back."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import openai

from avrt.servers.adaptive_limit import AdaptiveLimit

MAX_PROBE_PAUSE = 15.0
"""Longest pause in seconds between two probes of a server that does not answer."""


class NotAnsweringError(Exception):
    """A server does not answer; the message says why."""


class Server:
    """One address, with its limit and its state."""

    def __init__(self, number: int, client: openai.AsyncOpenAI, max_concurrency: int) -> None:
        self.number = number
        self.client = client
        self.limit = AdaptiveLimit(max_concurrency)
        self.in_flight = 0
        self.up = True
        self.recovery: asyncio.Task[None] | None = None
        self.last_error = ""
        self.probing = asyncio.Lock()

    @property
    def is_free(self) -> bool:
        """Whether it is up and may get one more call."""
        return self.up and self.in_flight < self.limit.value


class ServerPool:
    """Assigns calls to servers in turn, within each server's limit; waiting calls are served first come, first served.

    Args:
        servers: the servers of the pool.
        probe: sends a short request to a server; raises `NotAnsweringError` while it does not answer.
        wait_seconds: how long a call waits while all servers are down.
        on_outage: called once when all servers are down and a call waits, with the error of the first one.
        rng: source of the jitter of pauses.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        probe: Callable[[Server], Awaitable[object]],
        wait_seconds: float,
        on_outage: Callable[[str], None],
        rng: random.Random,
    ) -> None:
        self.servers = servers
        self._probe = probe
        self._wait_seconds = wait_seconds
        self._on_outage = on_outage
        self._rng = rng
        self._turn = 0
        self._waiting: deque[asyncio.Future[Server]] = deque()
        self._outage_reported = False

    async def acquire(self) -> Server:
        """The next server in turn that may get one more call, after waiting for one if need be; see `release`.

        Raises:
            NotAnsweringError: no server was up for `wait_seconds`.
        """
        server = None if self._waiting else self._next_free()
        if server is not None:
            server.in_flight += 1
            return server
        place: asyncio.Future[Server] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        return await self._wait_for(place)

    def release(self, server: Server) -> None:
        """A call to the server has ended."""
        server.in_flight -= 1
        self._serve_waiting()

    def mark_down(self, server: Server, error: str) -> None:
        """Send no more calls to a server until it answers a probe."""
        server.last_error = error
        if server.up:
            server.up = False
            server.recovery = asyncio.create_task(self._recover(server))

    async def close(self) -> None:
        """End the probes and close all connections."""
        for server in self.servers:
            if server.recovery is not None:
                server.recovery.cancel()
            await server.client.close()

    async def _wait_for(self, place: asyncio.Future[Server]) -> Server:
        down_since: float | None = None
        try:
            while True:
                done, _ = await asyncio.wait([place], timeout=1.0)
                if done:
                    return place.result()
                now = time.monotonic()
                if any(server.up for server in self.servers):
                    down_since = None
                elif down_since is None:
                    down_since = now
                    if not self._outage_reported:
                        self._outage_reported = True
                        self._on_outage(self.servers[0].last_error)
                elif now - down_since >= self._wait_seconds:
                    raise NotAnsweringError(self.servers[0].last_error)
        except BaseException:
            if place.done() and not place.cancelled():
                self.release(place.result())
            elif place in self._waiting:
                self._waiting.remove(place)
            raise

    def _next_free(self) -> Server | None:
        for step in range(len(self.servers)):
            server = self.servers[(self._turn + step) % len(self.servers)]
            if server.is_free:
                self._turn = server.number + 1
                return server
        return None

    def _serve_waiting(self) -> None:
        while self._waiting:
            if self._waiting[0].done():
                self._waiting.popleft()
                continue
            server = self._next_free()
            if server is None:
                return
            server.in_flight += 1
            self._waiting.popleft().set_result(server)

    async def _recover(self, server: Server) -> None:
        pause = 0.1
        while True:
            try:
                await self._probe(server)
            except NotAnsweringError as error:
                server.last_error = str(error)
                await asyncio.sleep(pause * self._rng.uniform(0.5, 1.0))
                pause = min(MAX_PROBE_PAUSE, pause * 2)
            else:
                server.up = True
                self._outage_reported = False
                self._serve_waiting()
                return
