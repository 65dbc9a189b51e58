"""Calls to a group of model servers: attempts, pauses, and which errors end a run.

The `openai` client speaks the protocol. Its own retries are off, because which attempts count, how long to pause and
what to record is decided here. Requests use its plain ``post`` with a body that is serialized once per call: passing a
message with eight images through the client's parameter types costs more than everything else together.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx2
import openai

from avrt.files.json_text import whole_text
from avrt.servers.config import Model, ServerConfig
from avrt.servers.content import Content
from avrt.servers.failures import BadReplyError, Failure, Kind, ReportedError, classify
from avrt.servers.outcome import Outcome, Status
from avrt.servers.pool import NotAnsweringError, Server, ServerPool
from avrt.servers.protocols import CHAT, CallProtocol
from avrt.servers.redaction import redacted_json, redactor
from avrt.servers.transport import AiohttpTransport

log = logging.getLogger(__name__)

REPLY_ERRORS = (openai.OpenAIError, httpx2.HTTPError, TimeoutError, ValueError, RecursionError)
"""Errors of sending a request and of reading its answer, for `classify`."""
MAX_ERROR_LENGTH = 500
"""Characters of a server's error message that are kept."""
CONNECT_SECONDS = 10.0
"""Time to open a connection; a server that needs longer is treated as overloaded."""
PROBE_SECONDS = 10.0
"""Time for a server to answer a probe."""
GATEWAY_STATUS = frozenset({429, 502, 503, 504})
"""Answers to a probe that come from a proxy in front of the server, or from a server that is still loading."""


class ServerError(ValueError):
    """Calls cannot continue: no server, wrong key, wrong model, too many failures. Names the key and how to fix it."""


class UnreachableError(ServerError):
    """No server answered for as long as the settings wait."""


class ServerClient:
    """Calls a group of servers.

    ::

        async with ServerClient("vision", config, model, key) as client:
            await client.check()
            outcome = await client.call(content)

    Args:
        name: name of the settings in the caller's config, with which error messages begin.
        config: addresses, limits and pauses.
        model: the model to call.
        key: API key, or None.
        rng: source of the jitter of pauses.
        protocol: the request that is made.
    """

    def __init__(
        self,
        name: str,
        config: ServerConfig,
        model: Model,
        key: str | None,
        rng: random.Random | None = None,
        protocol: CallProtocol = CHAT,
    ) -> None:
        self.name = name
        self.config = config
        self.model = model
        self._protocol = protocol
        self._redact: Callable[[str], str] = redactor([key])
        self._key = key
        self._rng = rng or random.Random()

    async def __aenter__(self) -> Self:
        config = self.config
        # Created once: reading the system's certificates takes longer than everything else here.
        context = ssl.create_default_context()
        servers = [
            Server(number, self._connect(url, context), config.max_concurrency)
            for number, url in enumerate(config.base_urls)
        ]
        self._pool = ServerPool(servers, self._probe, config.server_wait_seconds, self._warn_outage, self._rng)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._pool.close()

    def _connect(self, url: str, context: ssl.SSLContext) -> openai.AsyncOpenAI:
        timeout = httpx2.Timeout(self.config.request_timeout_seconds)
        # The environment's proxies and .netrc are ignored: neither belongs between a run and its servers.
        http_client = httpx2.AsyncClient(
            timeout=timeout, transport=AiohttpTransport(context, CONNECT_SECONDS), trust_env=False
        )
        return openai.AsyncOpenAI(
            base_url=url, api_key=self._key or "none", max_retries=0, timeout=timeout, http_client=http_client
        )

    @property
    def capacity(self) -> int:
        """The most calls that all servers together take at once."""
        return self.config.max_concurrency * len(self.config.base_urls)

    @property
    def outage(self) -> str:
        """Why a server that is down does not answer; empty while all are up."""
        return next((server.last_error for server in self._pool.servers if not server.up), "")

    async def check(self) -> None:
        """Check that the servers answer and offer the model; wait if none answers yet.

        Raises:
            ServerError: no server answers in time, one offers other models only or refuses the key, or its address has
                no chat completions.
        """
        servers = self._pool.servers
        for server in servers:
            try:
                listed = await self._probe(server, check_models=True)
            except NotAnsweringError as error:
                self._pool.mark_down(server, str(error))
            else:
                if not listed:
                    await self._probe_route(server)
        if not any(server.up for server in servers):
            self._pool.release(await self._acquire())

    async def call(self, content: Content, sampling: Mapping[str, Any] | None = None, system: str = "") -> Outcome:
        """Make one call, with as many attempts as needed.

        Args:
            content: the parts of the user message.
            sampling: parameters of this call; None for the model's.
            system: system message; empty for none.

        Raises:
            ServerError: this call and every other would fail: the key is refused, the address or the model is wrong, or
                no server answers any more.
        """
        begin = time.monotonic()
        parameters = self.model.sampling if sampling is None else sampling
        request = self._protocol.encode(self.model.name, content, parameters, system)
        attempts, failure = 0, None
        while attempts < self.config.max_attempts:
            answer = await self._attempt(request)
            if isinstance(answer, Outcome):
                latency = round(time.monotonic() - begin, 4)
                error = answer.error or (failure.error if failure else "")
                return replace(answer, attempts=attempts + 1, latency=latency, error=error)
            failure = answer
            if failure.kind is Kind.FATAL:
                raise ServerError(self._fatal_message(failure))
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
            error=failure.error,
        )

    async def _attempt(self, request: dict[str, Any]) -> Outcome | Failure:
        """Send a call once, to the next server in turn."""
        server = await self._acquire()
        sent_at = time.monotonic()
        try:
            # The client's own timeout restarts with every byte; this one limits the whole attempt.
            async with asyncio.timeout(self.config.request_timeout_seconds):
                reply = await server.client.post(self._protocol.route, cast_to=object, **request)
            answer = redacted_json(reply, self._storable)
            outcome = self._protocol.read(answer, self.model.sampling.get("max_tokens"))
            # Once more: parts of a text may have been joined to the key.
            outcome = replace(
                outcome,
                text=self._storable(outcome.text),
                reasoning=self._storable(outcome.reasoning),
                error=self._storable(outcome.error),
            )
        except (*REPLY_ERRORS, BadReplyError, ReportedError) as error:
            failure = self._failure(error)
            if failure.kind is Kind.NO_ROUTE:
                return await self._check_route(server, failure)
            if failure.kind is Kind.OVERLOADED:
                server.limit.overloaded(sent_at=sent_at, now=time.monotonic())
            elif failure.kind in (Kind.UNREACHABLE, Kind.BROKEN):
                self._pool.mark_down(server, failure.error)
            return failure
        else:
            server.limit.succeeded()
            return outcome
        finally:
            self._pool.release(server)

    async def _acquire(self) -> Server:
        try:
            return await self._pool.acquire()
        except NotAnsweringError as error:
            raise UnreachableError(self._outage_message(str(error))) from None

    def _pause(self, attempts: int, failure: Failure) -> float:
        """Exponential backoff with jitter, so that calls which failed together do not return together; never shorter
        than the pause that the server asked for."""
        bound = min(self.config.max_backoff_seconds, self.config.backoff_seconds * 2 ** (attempts - 1))
        pause = bound * self._rng.uniform(0.5, 1.0)
        return max(pause, failure.retry_after or 0.0)

    async def _check_route(self, server: Server, failure: Failure) -> Failure:
        """Find out with a short text request whether "not found" concerns one request or all of them.

        Raises:
            ServerError: it concerns all of them.
        """
        async with server.probing:
            known = await self._probe_route(server)
        return replace(failure, kind=Kind.PERMANENT if known else Kind.TRANSIENT)

    async def _probe_route(self, server: Server) -> bool:
        """Send a small request; returns False if the server does not answer now, so that nothing is known.

        Raises:
            ServerError: the address has no chat completions, the server does not offer the model, or it refuses the
                key.
        """
        request = self._protocol.probe(self.model.name)
        try:
            async with asyncio.timeout(self.config.request_timeout_seconds):
                await server.client.post(self._protocol.route, cast_to=object, **request)
        except REPLY_ERRORS as error:
            failure = self._failure(error)
            if failure.kind is Kind.FATAL:
                raise ServerError(self._fatal_message(failure)) from None
            if failure.kind is Kind.NO_ROUTE:
                raise ServerError(self._no_route_message(server, failure)) from None
            return failure.kind is Kind.PERMANENT  # it was read and refused: the address is right
        return True

    async def _probe(self, server: Server, check_models: bool = False) -> bool:
        """Ask a server for its models. Any answer of its own shows that it is up, even one that it cannot list them.

        Returns:
            Whether it lists them.

        Raises:
            NotAnsweringError: it does not answer.
            ServerError: with `check_models`, if it offers other models only, or refuses the key.
        """
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                page = await server.client.models.list()
        except openai.APIStatusError as error:
            if error.status_code in GATEWAY_STATUS:
                raise NotAnsweringError(self._failure(error).error) from None
            if error.status_code in (401, 403) and check_models:
                raise ServerError(self._fatal_message(self._failure(error))) from None
            return False
        except REPLY_ERRORS as error:
            raise NotAnsweringError(self._failure(error).error) from None
        offered = [self._shown(model.id) for model in getattr(page, "data", None) or []]
        if check_models and offered and self.model.name not in offered:
            raise ServerError(
                f"{self.name}.model: server {server.number} offers {', '.join(map(repr, offered[:5]))}, not "
                f"{self.model.name!r}; set {self.name}.model, or start the server with that --served-model-name"
            )
        return bool(offered)

    def _no_route_message(self, server: Server, failure: Failure) -> str:
        reason = failure.error
        if self.model.name in failure.error:
            return (
                f"{self.name}.model: server {server.number} does not offer {self.model.name!r} ({reason}); set "
                f"{self.name}.model, or start the server with that --served-model-name"
            )
        problem = f"{self.name}.base_urls[{server.number}]: no {self._protocol.title} at this address ({reason})"
        if not urlsplit(self.config.base_urls[server.number]).path.rstrip("/").endswith("/v1"):
            return f"{problem}; it must end in /v1, as http://host:8000/v1"
        return f"{problem}; check it, and that the server offers this model"

    def _fatal_message(self, failure: Failure) -> str:
        variable = self.config.api_key_env
        fix = f"check the key in {variable}" if variable else f"name the key's variable in {self.name}.api_key_env"
        if failure.error.startswith(("HTTP 402", "HTTP 429")):
            fix = "the account has no quota left"
        return f"{self.name}: a server refuses this run ({failure.error}); {fix}"

    def _outage_message(self, reason: str) -> str:
        count, seconds = len(self.config.base_urls), self.config.server_wait_seconds
        command = f" ({self.model.serve})" if self.model.serve else ""
        return (
            f"{self.name}.base_urls: none of the {count} servers answered for {seconds:g} s "
            f"({reason}); start them{command} and run the same command again, nothing is lost"
        )

    def _warn_outage(self, reason: str) -> None:
        seconds = self.config.server_wait_seconds
        log.warning("%s: no server answers (%s); waiting for one, up to %g s", self.name, reason, seconds)

    def _failure(self, error: Exception) -> Failure:
        """The class of an error. Its text is free of the key before it is cut."""
        failure = classify(error)
        return replace(failure, error=self._shown(failure.error))

    def _shown(self, text: object) -> str:
        """A server's text for a message: without the key, and not longer than `MAX_ERROR_LENGTH`."""
        return self._storable(str(text))[:MAX_ERROR_LENGTH]

    def _storable(self, text: str) -> str:
        """Text that is free of the key and that UTF-8 can represent."""
        return self._redact(whole_text(text))
