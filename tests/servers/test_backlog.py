"""Calls are found and prepared in threads, each comes out once, and no error leaves a task waiting."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

import pytest

from avrt.servers.backlog import open_backlog

COUNT = 200


def take_all(
    missing: Iterator[int], prepare: Callable[[int], str], *, takers: int = 8, fail_at: int | None = None
) -> list[str]:
    taken: list[str] = []

    async def main() -> None:
        async with open_backlog(missing, prepare, ahead=4, threads=2, batch=4) as backlog, asyncio.TaskGroup() as group:

            async def take() -> None:
                async for item in backlog:
                    await asyncio.sleep(0)
                    taken.append(item)
                    if len(taken) == fail_at:
                        raise OSError("disk full")

            for _ in range(takers):
                group.create_task(take())

    asyncio.run(main())
    return taken


def innermost(group: BaseExceptionGroup) -> BaseException:
    first = group.exceptions[0]
    return innermost(first) if isinstance(first, BaseExceptionGroup) else first


@pytest.mark.parametrize("takers", [1, 8, 300])
def test_every_call_comes_out_once(takers: int) -> None:
    assert sorted(take_all(iter(range(COUNT)), "{:03d}".format, takers=takers)) == [f"{i:03d}" for i in range(COUNT)]


def test_no_calls_end_immediately() -> None:
    assert take_all(iter(()), str) == []


def test_calls_start_before_all_that_are_missing_are_known() -> None:
    """The second half is only looked for after a call of the first half came out."""
    came_out = asyncio.Event()

    def missing() -> Iterator[int]:
        yield 0
        for _ in range(1000):
            if came_out.is_set():
                break
            time.sleep(0.01)
        assert came_out.is_set()
        yield 1

    async def main() -> list[str]:
        taken = []
        async with open_backlog(missing(), str, ahead=4, threads=2, batch=4) as backlog:
            async for item in backlog:
                taken.append(item)
                came_out.set()
        return taken

    assert asyncio.run(main()) == ["0", "1"]


def test_a_call_that_cannot_be_prepared_stops_all_tasks() -> None:
    def prepare(index: int) -> str:
        if index == 50:
            raise ValueError("shard is damaged")
        return str(index)

    with pytest.raises(ExceptionGroup) as caught:
        take_all(iter(range(COUNT)), prepare)
    assert str(innermost(caught.value)) == "shard is damaged"


def test_a_search_that_fails_stops_all_tasks() -> None:
    def missing() -> Iterator[int]:
        yield from range(3)
        raise ValueError("ledger is damaged")

    with pytest.raises(ExceptionGroup) as caught:
        take_all(missing(), str)
    assert str(innermost(caught.value)) == "ledger is damaged"


def test_a_taker_that_fails_stops_the_preparing() -> None:
    prepared = []

    def prepare(index: int) -> str:
        prepared.append(index)
        return str(index)

    with pytest.raises(ExceptionGroup) as caught:
        take_all(iter(range(100_000)), prepare, fail_at=20)
    assert str(innermost(caught.value)) == "disk full"
    assert len(prepared) < 1000
