"""The calls that are still to be made, found and prepared while others are in flight.

A place at a server must not wait for the disk, for decoding or for base64, and the first call must not wait until a
ledger has been compared with fifty thousand samples. So one thread finds the calls that are missing, and a few others
prepare calls for the moment when a place is free.
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


class Backlog(Generic[T]):
    """Prepared calls, taken one by one by any number of tasks; created by `open_backlog`."""

    def __init__(self, ready: asyncio.Queue[T | None]) -> None:
        self._ready = ready

    async def __aiter__(self) -> AsyncIterator[T]:
        while (item := await self._ready.get()) is not None:
            yield item
        self._ready.put_nowait(None)  # for the other tasks


@asynccontextmanager
async def open_backlog(
    missing: Iterator[int], prepare: Callable[[int], T], *, ahead: int, threads: int, batch: int
) -> AsyncIterator[Backlog[T]]:
    """Prepare calls in threads for the length of a block.

    Args:
        missing: numbers of the calls; read by one thread without pause.
        prepare: prepares one of them; called in several threads.
        ahead: the most prepared calls that wait to be taken, besides those that are being prepared.
        threads: threads that prepare. They share the interpreter with the calls in flight.
        batch: calls that a thread prepares in a row; switching between threads costs more than preparing a small clip.

    Raises:
        Exception: the first one that `missing` or `prepare` raises, at the end of the block, which is cancelled then.
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
        """Wait for a missing call and prepare it, with those behind it; empty at the end."""
        indices: list[int] = []
        try:
            while len(indices) < batch:
                # Only the first one is waited for: it must not wait here until others are found.
                index = found.get(block=not indices)
                if index is None:
                    found.put(None)  # for the other threads
                    break
                indices.append(index)
        except queue.Empty:
            pass
        return [prepare(index) for index in indices if not stopped.is_set()]

    async def find_all() -> None:
        await loop.run_in_executor(pool, find)
        found.put(None)

    async def prepare_all() -> None:
        while prepared := await loop.run_in_executor(pool, next_prepared):
            for item in prepared:
                await ready.put(item)

    async def fill() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(find_all())
            for _ in range(threads):
                group.create_task(prepare_all())
        await ready.put(None)

    with ThreadPoolExecutor(threads + 1, "backlog") as pool:
        try:
            async with asyncio.TaskGroup() as group:
                filling = group.create_task(fill())
                yield Backlog(ready)
                filling.cancel()
        finally:
            stopped.set()
            found.put(None)
