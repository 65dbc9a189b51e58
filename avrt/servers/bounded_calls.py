"""A batch of calls within a time limit, for callers that need an outcome of each and keep no ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from avrt.servers.calls import make_calls
from avrt.servers.client import ServerClient, UnreachableError
from avrt.servers.config import Model, ServerConfig
from avrt.servers.content import Content
from avrt.servers.outcome import Outcome, Status

PREPARED_AHEAD = 16
PREPARING_THREADS = 2


def call_within(
    seconds: float,
    name: str,
    config: ServerConfig,
    model: Model,
    key: str | None,
    contents: Callable[[int], Content],
    count: int,
    on_reply: Callable[[int, Outcome], None],
) -> list[Outcome]:
    """Make some calls, as many at a time as the servers take.

    Args:
        seconds: time for all of them. Calls without an outcome then are given up.
        name: name of the servers' settings, with which error messages begin.
        config, model, key: see `ServerClient`.
        contents: the message of call number i; called in threads, shortly before it is sent.
        count: number of calls.
        on_reply: called in a thread with each outcome that has a reply, as soon as it is there.

    Returns:
        An outcome of each call; ``gave_up`` with the reason where time ran out or no server answered.

    Raises:
        ServerError: no call can succeed: a wrong address, model or key.
        Exception: what `contents` or `on_reply` raises.
    """
    outcomes: dict[int, Outcome] = {}

    async def finish(number: int, outcome: Outcome | None) -> None:
        assert outcome is not None
        if not outcome.status.is_failure:
            await asyncio.to_thread(on_reply, number, outcome)
        outcomes[number] = outcome

    async def run() -> str:
        """Make the calls; returns why those without an outcome were given up."""
        async with ServerClient(name, config, model, key) as client:
            try:
                async with asyncio.timeout(seconds):
                    await make_calls(
                        client,
                        iter(range(count)),
                        lambda number: (number, contents(number)),
                        finish,
                        ahead=PREPARED_AHEAD,
                        threads=PREPARING_THREADS,
                        batch=1,
                    )
            except TimeoutError:
                outage = client.outage
                return f"no reply within {seconds:g} s" + (f" ({outage})" if outage else "")
            except UnreachableError:
                return f"no server answers ({client.outage})"
        return ""

    reason = asyncio.run(run())
    return [outcomes.get(number) or Outcome(Status.GAVE_UP, attempts=0, error=reason) for number in range(count)]
