"""Making many calls at a time: each is prepared in a thread, sent, and recorded before the next one is taken."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

from avrt.servers.backlog import Backlog, open_backlog
from avrt.servers.client import ServerClient
from avrt.servers.content import Content
from avrt.servers.outcome import Outcome

Job = TypeVar("Job")


async def make_calls(
    client: ServerClient,
    missing: Iterator[int],
    prepare: Callable[[int], tuple[Job, Content | None]],
    finish: Callable[[Job, Outcome | None], Awaitable[None]],
    *,
    send: Callable[[Job, Content], Awaitable[Outcome]] | None = None,
    ahead: int,
    threads: int,
    batch: int,
) -> None:
    """Make all calls of an iterator, as many at a time as the servers take.

    Args:
        client: of the servers.
        missing: numbers of the calls; read in a thread of its own.
        prepare: the job of a number and the message to send, or None where there is nothing to send; called in threads.
        finish: records the outcome of a job (None where nothing was sent); the next call starts when it returns.
        send: sends the message of a job; None for `ServerClient.call` with the model's own parameters.
        ahead, threads, batch: see `open_backlog`.

    Raises:
        ServerError: the calls cannot continue.
        Exception: the first one that `missing`, `prepare` or `finish` raises.
    """

    async def work(backlog: Backlog[tuple[Job, Content | None]]) -> None:
        async for job, content in backlog:
            outcome = None
            if content is not None:
                outcome = await (client.call(content) if send is None else send(job, content))
            await finish(job, outcome)

    try:
        async with open_backlog(missing, prepare, ahead=ahead, threads=threads, batch=batch) as backlog:
            await client.check()
            async with asyncio.TaskGroup() as group:
                for _ in range(client.capacity):
                    group.create_task(work(backlog))
    except ExceptionGroup as errors:
        # The first one is enough: the others were cancelled, or met the same full disk or dead server.
        raise _first(errors) from None


def _first(errors: ExceptionGroup[Exception]) -> Exception:
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first
