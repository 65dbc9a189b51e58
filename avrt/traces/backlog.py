"""The calls that a stage still has to make, found and prepared while others are under way.

A place at a server must not wait for the disk or for base64, and the first call must not wait until the ledger has been
compared with fifty thousand samples. So one thread finds out which calls are missing, and a few others prepare calls
for the moment when a place is free.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

T = TypeVar("T")

PREPARERS = 2
"""Threads that prepare calls. They share the interpreter with the calls under way; more would only get in its way."""
BATCH = 4
"""Calls that one of them prepares in a row: handing over between threads costs more than preparing a small clip."""


class Backlog(Generic[T]):
    """Prepared calls, taken one by one by any number of tasks; made by `open_backlog`."""

    def __init__(self, ready: asyncio.Queue[T | None]) -> None:
        self._ready = ready

    async def __aiter__(self) -> AsyncIterator[T]:
        while (item := await self._ready.get()) is not None:
            yield item
        self._ready.put_nowait(None)  # for the other tasks


@asynccontextmanager
async def open_backlog(missing: Iterator[int], prepare: Callable[[int], T], *, ahead: int) -> AsyncIterator[Backlog[T]]:
    """Prepare calls in threads for the length of a block.

    Args:
        missing: which calls are to be made; read by one thread, as fast as it goes.
        prepare: makes one of them ready; called in several threads.
        ahead: calls that may lie ready before anybody takes them, besides those that are being prepared.

    Raises:
        Exception: what `missing` or `prepare` raise, at the end of the block; the block is cancelled then.
    """
    loop = asyncio.get_running_loop()
    found: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    ready: asyncio.Queue[T | None] = asyncio.Queue(ahead)
    stopped = threading.Event()

    def find() -> None:
        for index in missing:
            if stopped.is_set():
                return
            found.put(index)

    def next_prepared() -> list[T]:
        """Wait for a missing call and prepare it, with the ones behind it; empty at the end."""
        indices: list[int] = []
        try:
            while len(indices) < BATCH:
                # Only the first one is waited for: it must not lie here until others are found.
                index = found.get(block=not indices)
                if index is None:
                    found.put(None)  # for the other threads
                    break
                indices.append(index)
        except queue.Empty:
            pass
        return [prepare(index) for index in indices if not stopped.is_set()]

    async def find_all() -> None:
        await loop.run_in_executor(threads, find)
        found.put(None)

    async def prepare_all() -> None:
        while prepared := await loop.run_in_executor(threads, next_prepared):
            for item in prepared:
                await ready.put(item)

    async def fill() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(find_all())
            for _ in range(PREPARERS):
                group.create_task(prepare_all())
        await ready.put(None)

    with ThreadPoolExecutor(PREPARERS + 1, "backlog") as threads:
        try:
            async with asyncio.TaskGroup() as group:
                filling = group.create_task(fill())
                yield Backlog(ready)
                filling.cancel()
        finally:
            stopped.set()
            found.put(None)
