"""Several servers: turns, limits, outages and recovery."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from avrt.servers.adaptive_limit import AdaptiveLimit
from avrt.servers.client import ServerClient, ServerError
from avrt.servers.outcome import Outcome, Status
from tests.servers.client_calls import CONFIG, MODEL, call_all, message
from tests.servers.scripted_server import Reply, ScriptedServer


def test_calls_are_spread_over_all_addresses() -> None:
    with (
        ScriptedServer(lambda *_: Reply("a"), latency=0.02) as one,
        ScriptedServer(lambda *_: Reply("b"), latency=0.02) as two,
    ):
        call_all([one.url, two.url], [f"q{i}" for i in range(40)])
    assert sum(one.seen.values()) + sum(two.seen.values()) == 40
    assert min(sum(one.seen.values()), sum(two.seen.values())) >= 10


def test_no_more_calls_are_in_flight_than_allowed() -> None:
    with ScriptedServer(lambda *_: Reply("a"), latency=0.02) as server:
        call_all([server.url], [f"q{i}" for i in range(40)], max_concurrency=6)
    assert server.peak == 6


def test_calls_to_a_dead_address_go_to_another_one() -> None:
    with ScriptedServer(lambda *_: Reply("a")) as dead:
        url = dead.url
    with ScriptedServer(lambda *_: Reply("b")) as alive:
        outcomes = call_all([url, alive.url], [f"q{i}" for i in range(10)])
    assert [outcome.text for outcome in outcomes] == ["b"] * 10
    assert all(outcome.attempts == 1 for outcome in outcomes), "a server that is not there cost attempts"


def test_a_server_that_dies_and_comes_back_finishes_the_run() -> None:
    texts = [f"q{i}" for i in range(60)]
    with ScriptedServer(lambda body, text, times: Reply(f"answer to {text}"), latency=0.01) as server:

        async def main() -> list[Outcome]:
            config = replace(CONFIG, base_urls=[server.url], server_wait_seconds=30, max_attempts=6)
            async with ServerClient("vision", config, MODEL, None) as client:
                await client.check()
                calls = asyncio.gather(*(client.call(message(text)) for text in texts))
                while sum(server.seen.values()) < 15:
                    await asyncio.sleep(0.005)
                await asyncio.to_thread(server.stop)
                await asyncio.sleep(0.5)
                assert not calls.done()
                await asyncio.to_thread(server.start)
                return await calls

        outcomes = asyncio.run(main())
    assert [outcome.text for outcome in outcomes] == [f"answer to {text}" for text in texts]
    assert all(outcome.status is Status.OK for outcome in outcomes)


def test_no_server_at_all_warns_and_then_stops_the_run(caplog: pytest.LogCaptureFixture) -> None:
    with ScriptedServer(lambda *_: Reply("a")) as server:
        url = server.url
    with pytest.raises(ServerError, match=r"vision\.base_urls: none of the 1 servers answered for 1 s"):
        call_all([url], ["q"], server_wait_seconds=1)
    told = "vision: no server answers (connection refused); waiting for one, up to 1 s"
    assert [record.getMessage() for record in caplog.records] == [told]
    with pytest.raises(ServerError, match=r"start them \(vllm serve m\)"):
        call_all([url], ["q"], server_wait_seconds=0.1, model=replace(MODEL, serve="vllm serve m"))


def test_an_overloaded_server_gets_fewer_calls_at_once() -> None:
    """The server answers 429 whenever more than 3 calls are in flight; the limit must settle near 3."""
    server = ScriptedServer(lambda *_: Reply("a"), latency=0.01)
    refused = 0

    def respond(body: dict[str, Any], text: str, times: int) -> Reply:
        nonlocal refused
        if server.in_flight >= 3:
            refused += 1
            return Reply("busy", status=429)
        return Reply("a")

    server.respond = respond
    with server:
        outcomes = call_all(
            [server.url], [f"q{i}" for i in range(300)], max_concurrency=32, max_attempts=50, request_timeout_seconds=20
        )
    assert all(outcome.status is Status.OK for outcome in outcomes)
    # With 32 at once all the time nine calls in ten would be refused; a limit that adapts wastes far fewer.
    assert refused < 300


def test_the_limit_halves_once_per_burst_and_grows_by_one_per_round() -> None:
    limit = AdaptiveLimit(16)
    for _ in range(8):
        limit.overloaded(sent_at=1.0, now=2.0)
    assert limit.value == 8
    limit.overloaded(sent_at=2.5, now=3.0)
    assert limit.value == 4
    for _ in range(4):
        limit.succeeded()
    assert limit.value == 5
    for _ in range(1000):
        limit.succeeded()
    assert limit.value == 16
    for moment in range(10):
        limit.overloaded(sent_at=10.0 + moment, now=10.0 + moment)
    assert limit.value == 1
