"""Calls to a stage's servers: retries, adaptive concurrency, and servers that die and come back.

The `openai` client does the protocol; its own retries are off, because which attempts count, how long to pause and
what to record is decided here. Requests go through its plain ``post`` with a body spelled out once per call: walking a
message of eight pictures through the client's parameter types costs more than everything else together.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import ssl
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx2
import openai

from avrt.servers.concurrency import AdaptiveLimit
from avrt.servers.config import Model, Stage, StageConfig
from avrt.servers.failures import BadReplyError, Failure, Kind, ReportedError, classify
from avrt.servers.presets import PRESETS
from avrt.servers.redaction import redactor
from avrt.servers.replies import Outcome, read_reply
from avrt.servers.status import Status
from avrt.servers.transport import AiohttpTransport

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
"""Time to open a connection; a server that needs longer is taken for overloaded."""
PROBE_SECONDS = 10.0
"""Time for a server to answer a probe."""
MAX_PROBE_PAUSE = 15.0
GATEWAY_STATUS = frozenset({429, 502, 503, 504})
"""Answers to a probe that come from something in front of the server, or from one that is still loading."""


class StageError(ValueError):
    """A stage that cannot go on: no server, wrong key, wrong model. Names the config key and the mend."""


class Server:
    """One address, with its limit and its health."""

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
    def has_room(self) -> bool:
        """Whether it is up and may get one more call."""
        return self.up and self.in_flight < self.limit.value


class ServerPool:
    """All servers of one stage.

    ::

        async with ServerPool("vision", config, model, key) as pool:
            await pool.check()
            outcome = await pool.call(content)

    Args:
        stage: for messages.
        config: addresses, limits and pauses.
        model: what to ask for.
        key: API key, or None.
        rng: source of the pauses' jitter.
    """

    def __init__(
        self, stage: Stage, config: StageConfig, model: Model, key: str | None, rng: random.Random | None = None
    ) -> None:
        self.stage = stage
        self.config = config
        self.model = model
        self.redact: Callable[[str], str] = redactor([key])
        self._key = key
        self._rng = rng or random.Random()
        self._turn = 0
        self._waiting: deque[asyncio.Future[Server]] = deque()
        self._told = False

    async def __aenter__(self) -> Self:
        config = self.config
        # Made once: reading the system's certificates takes longer than all else here.
        context = ssl.create_default_context()
        self.servers = [
            Server(number, self._client(url, context), config.max_concurrency)
            for number, url in enumerate(config.base_urls)
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self.servers:
            if server.recovery is not None:
                server.recovery.cancel()
            await server.client.close()

    def _client(self, url: str, context: ssl.SSLContext) -> openai.AsyncOpenAI:
        seconds = self.config.request_timeout_seconds
        timeout = httpx2.Timeout(seconds)
        # Without the environment's proxies and .netrc: neither belongs between a run and its servers.
        http_client = httpx2.AsyncClient(
            timeout=timeout, transport=AiohttpTransport(context, CONNECT_SECONDS), trust_env=False
        )
        return openai.AsyncOpenAI(
            base_url=url, api_key=self._key or "none", max_retries=0, timeout=timeout, http_client=http_client
        )

    @property
    def capacity(self) -> int:
        """Calls that all servers take at once at most."""
        return self.config.max_concurrency * len(self.config.base_urls)

    async def check(self) -> None:
        """See that the servers answer and offer the model; those that do not answer yet are waited for.

        Raises:
            StageError: no server answers in time, one offers other models only or refuses the key, or its address has
                no chat completions.
        """
        for server in self.servers:
            try:
                listed = await self._probe(server, name_models=True)
            except _NotUpError as error:
                server.last_error = str(error)
                self._lost(server)
            else:
                if not listed:
                    await self._probe_route(server)
        if not any(server.up for server in self.servers):
            self._release(await self._acquire())

    async def call(self, content: list[dict[str, Any]]) -> Outcome:
        """Make one call, with as many attempts as it takes.

        Raises:
            StageError: the call and every other would fail: the key is refused, the address or the model is wrong, or
                no server answers any more.
        """
        begin = time.monotonic()
        messages = [{"role": "user", "content": content}]
        body = json.dumps({"model": self.model.name, "messages": messages, **self.model.sampling}).encode()
        attempts, failure = 0, None
        while attempts < self.config.max_attempts:
            answer = await self._attempt(body)
            if isinstance(answer, Outcome):
                return replace(
                    answer,
                    text=self.redact(_encodable(answer.text)),
                    reasoning=self.redact(_encodable(answer.reasoning)),
                    attempts=attempts + 1,
                    latency=round(time.monotonic() - begin, 4),
                    error=self.redact(_encodable(answer.error or (failure.error if failure else ""))),
                )
            failure = answer
            if failure.kind is Kind.FATAL:
                raise StageError(self._fatal_message(failure))
            if failure.kind is Kind.UNREACHABLE:
                continue
            attempts += 1
            if failure.kind is Kind.PERMANENT:
                break
            if attempts < self.config.max_attempts:
                await asyncio.sleep(self._pause(attempts, failure))
        assert failure is not None
        return Outcome(
            status=Status.REJECTED if failure.kind is Kind.PERMANENT else Status.GAVE_UP,
            attempts=attempts,
            latency=round(time.monotonic() - begin, 4),
            error=self.redact(_encodable(failure.error)),
        )

    async def _attempt(self, body: bytes) -> Outcome | Failure:
        """Send a call once, to the next server in turn."""
        server = await self._acquire()
        sent_at = time.monotonic()
        try:
            # The client's own time-out starts anew with every byte; this one bounds the whole attempt.
            async with asyncio.timeout(self.config.request_timeout_seconds):
                reply = await server.client.post(
                    "/chat/completions",
                    cast_to=object,
                    content=body,
                    options={"headers": {"content-type": "application/json"}},
                )
            outcome = read_reply(reply, self.model.sampling.get("max_tokens"))
        except (openai.OpenAIError, httpx2.HTTPError, TimeoutError, BadReplyError, ReportedError, ValueError) as error:
            failure = classify(error)
            if failure.kind is Kind.NO_ROUTE:
                return await self._judge_no_route(server, failure)
            if failure.kind is Kind.OVERLOADED:
                server.limit.overloaded(sent_at=sent_at, now=time.monotonic())
            elif failure.kind in (Kind.UNREACHABLE, Kind.BROKEN):
                server.last_error = failure.error
                self._lost(server)
            return failure
        else:
            server.limit.succeeded()
            return outcome
        finally:
            self._release(server)

    def _pause(self, attempts: int, failure: Failure) -> float:
        """Exponential back-off, half of it random so that calls which failed together do not return together; never
        shorter than what the server asked for."""
        bound = min(self.config.max_backoff_seconds, self.config.backoff_seconds * 2 ** (attempts - 1))
        pause = bound * self._rng.uniform(0.5, 1.0)
        return max(pause, failure.retry_after or 0.0)

    async def _judge_no_route(self, server: Server, failure: Failure) -> Failure:
        """Whether "not found" is about one request or about all: a short request of text alone tells.

        Raises:
            StageError: it is about all.
        """
        async with server.probing:
            known = await self._probe_route(server)
        return replace(failure, kind=Kind.PERMANENT if known else Kind.TRANSIENT)

    async def _probe_route(self, server: Server) -> bool:
        """Ask for one token; returns False where the server does not answer now, so that nothing is known.

        Raises:
            StageError: the address has no chat completions, the server not that model, or it refuses the key.
        """
        message = {"role": "user", "content": [{"type": "text", "text": "Hello"}]}
        try:
            async with asyncio.timeout(self.config.request_timeout_seconds):
                await server.client.post(
                    "/chat/completions",
                    cast_to=object,
                    body={"model": self.model.name, "messages": [message], "max_tokens": 1},
                )
        except (openai.OpenAIError, httpx2.HTTPError, TimeoutError, ValueError) as error:
            failure = classify(error)
            if failure.kind is Kind.FATAL:
                raise StageError(self._fatal_message(failure)) from None
            if failure.kind is Kind.NO_ROUTE:
                raise StageError(self._no_route_message(server, failure)) from None
            return failure.kind is Kind.PERMANENT  # it was read and refused: the address is right
        return True

    def _no_route_message(self, server: Server, failure: Failure) -> str:
        said = self.redact(failure.error)
        if self.model.name in failure.error:
            return (
                f"{self.stage}.model: server {server.number} does not offer {self.model.name!r} ({said}); set "
                f"{self.stage}.model, or start the server with that --served-model-name"
            )
        key = f"{self.stage}.base_urls[{server.number}]"
        if not urlsplit(self.config.base_urls[server.number]).path.rstrip("/").endswith("/v1"):
            return f"{key}: no chat completions at this address ({said}); it must end in /v1, as http://host:8000/v1"
        return f"{key}: no chat completions at this address ({said}); check it, and that the server offers this model"

    def _fatal_message(self, failure: Failure) -> str:
        variable = self.config.api_key_env
        fix = f"check the key in {variable}" if variable else f"name the key's variable in {self.stage}.api_key_env"
        if failure.error.startswith(("HTTP 402", "HTTP 429")):
            fix = "the account has no quota left"
        return f"{self.stage}: a server refuses this run ({self.redact(failure.error)}); {fix}"

    def _tell_that_nobody_answers(self) -> None:
        """Once per outage, however many calls wait."""
        if not self._told:
            self._told = True
            reason, seconds = self.redact(self.servers[0].last_error), self.config.server_wait_seconds
            log.warning("%s: no server answers (%s); waiting for one, up to %g s", self.stage, reason, seconds)

    def _nobody_message(self) -> str:
        count, seconds = len(self.servers), self.config.server_wait_seconds
        preset = PRESETS.get(self.config.preset or "")
        command = f" (docs/traces.md: {preset.serve})" if preset and preset.serve else ""
        return (
            f"{self.stage}.base_urls: none of the {count} servers answered for {seconds:g} s "
            f"({self.redact(self.servers[0].last_error)}); start them{command} and run the same command again, "
            "nothing is lost"
        )

    async def _acquire(self) -> Server:
        """A place at the next server in turn that has one; waits for it.

        Raises:
            StageError: no server was up for `server_wait_seconds`.
        """
        server = None if self._waiting else self._next_with_room()
        if server is None:
            place: asyncio.Future[Server] = asyncio.get_running_loop().create_future()
            self._waiting.append(place)
            server = await self._wait_for(place)
        else:
            server.in_flight += 1
        return server

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
                    self._tell_that_nobody_answers()
                elif now - down_since >= self.config.server_wait_seconds:
                    raise StageError(self._nobody_message())
        except BaseException:
            if place.done() and not place.cancelled():
                self._release(place.result())
            elif place in self._waiting:
                self._waiting.remove(place)
            raise

    def _next_with_room(self) -> Server | None:
        for step in range(len(self.servers)):
            server = self.servers[(self._turn + step) % len(self.servers)]
            if server.has_room:
                self._turn = server.number + 1
                return server
        return None

    def _release(self, server: Server) -> None:
        server.in_flight -= 1
        self._hand_out()

    def _hand_out(self) -> None:
        """Give free places to those who wait, first come first served."""
        while self._waiting:
            if self._waiting[0].done():
                self._waiting.popleft()
                continue
            server = self._next_with_room()
            if server is None:
                return
            server.in_flight += 1
            self._waiting.popleft().set_result(server)

    def _lost(self, server: Server) -> None:
        """Take a server out of turn and probe it until it answers."""
        if server.up:
            server.up = False
            server.recovery = asyncio.create_task(self._recover(server))

    async def _recover(self, server: Server) -> None:
        pause = 0.1
        while True:
            try:
                await self._probe(server)
            except _NotUpError as error:
                server.last_error = str(error)
                await asyncio.sleep(pause * self._rng.uniform(0.5, 1.0))
                pause = min(MAX_PROBE_PAUSE, pause * 2)
            else:
                server.up = True
                self._told = False
                self._hand_out()
                return

    async def _probe(self, server: Server, name_models: bool = False) -> bool:
        """Ask a server for its models. Any answer of its own shows that it is alive, even that it cannot list them.

        Returns:
            Whether it lists them.

        Raises:
            _NotUpError: it does not answer.
            StageError: with `name_models`, when it offers others only, or refuses the key.
        """
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                page = await server.client.models.list()
        except openai.APIStatusError as error:
            if error.status_code in GATEWAY_STATUS:
                raise _NotUpError(classify(error).error) from error
            if error.status_code in (401, 403) and name_models:
                raise StageError(self._fatal_message(classify(error))) from None
            return False
        except (openai.OpenAIError, httpx2.HTTPError, TimeoutError, ValueError) as error:
            raise _NotUpError(classify(error).error) from error
        offered = [model.id for model in getattr(page, "data", None) or []]
        if name_models and offered and self.model.name not in offered:
            raise StageError(
                f"{self.stage}.model: server {server.number} offers {', '.join(map(repr, offered[:5]))}, not "
                f"{self.model.name!r}; set {self.stage}.model, or start the server with that --served-model-name"
            )
        return bool(offered)


class _NotUpError(Exception):
    """A server does not answer."""


def _encodable(text: str) -> str:
    """Text that UTF-8 can hold: a lone half of a surrogate pair, which JSON can spell, becomes U+FFFD.

    Not a question mark: that would turn an answer into a question.
    """
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
