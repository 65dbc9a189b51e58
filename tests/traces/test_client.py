"""Every fault a server can show, against a real local server: status, number of attempts, and no false trace."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from avrt.traces.client import Outcome, ServerPool, StageError
from avrt.traces.concurrency import AdaptiveLimit
from avrt.traces.config import Model, StageConfig
from avrt.traces.records import Status
from tests.traces.scripted_server import Reply, ScriptedServer

MODEL = Model("m", "r", {"max_tokens": 8, "temperature": 0.5, "top_k": 3})
CONFIG = StageConfig(
    ["-"], max_concurrency=4, request_timeout_seconds=0.5, max_attempts=4, backoff_seconds=0.01, server_wait_seconds=5
)


def text_part(text: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text}]


def call_all(urls: list[str], texts: list[str], *, key: str | None = None, **changes: Any) -> list[Outcome]:
    async def main() -> list[Outcome]:
        config = replace(CONFIG, base_urls=urls, **changes)
        async with ServerPool("vision", config, MODEL, key, random.Random(0)) as pool:
            await pool.check()
            return await asyncio.gather(*(pool.call(text_part(text)) for text in texts))

    return asyncio.run(main())


def first_times(count: int, fault: Reply) -> Callable[[dict[str, Any], str, int], Reply]:
    """`fault` for the first `count` attempts of each call, then a good answer."""
    return lambda body, text, times: fault if times < count else Reply(f"answer to {text}")


TRANSIENT = {
    "429": Reply("slow down", status=429),
    "500": Reply("oops", status=500),
    "502": Reply("bad gateway", status=502),
    "503": Reply("loading", status=503),
    "hang": Reply(fault="hang"),
    "reset": Reply(fault="reset"),
    "broken_json": Reply("x", fault="broken_json"),
    "half_body": Reply("x" * 500, fault="half_body"),
    "no_choices": Reply("x", fault="no_choices"),
    "html": Reply("x", fault="html"),
    "no_text": Reply(message={"content": None}),
}


@pytest.mark.parametrize("name", TRANSIENT)
def test_a_passing_fault_is_tried_again_until_the_answer_comes(name: str) -> None:
    with ScriptedServer(first_times(2, TRANSIENT[name])) as server:
        (outcome,) = call_all([server.url], ["q"])
    assert (outcome.status, outcome.text, outcome.attempts) == (Status.OK, "answer to q", 3)
    assert outcome.error, "what the failed attempts said is lost"
    assert server.seen["q"] == 3


@pytest.mark.parametrize("name", TRANSIENT)
def test_a_lasting_fault_is_given_up_after_the_attempts_allowed(name: str) -> None:
    with ScriptedServer(first_times(99, TRANSIENT[name])) as server:
        (outcome,) = call_all([server.url], ["q"])
    assert (outcome.status, outcome.text, outcome.attempts) == (Status.GAVE_UP, "", 4)
    assert server.seen["q"] == 4


@pytest.mark.parametrize(
    ("name", "error"),
    [("reset", "connection broken: "), ("half_body", "connection broken: "), ("hang", "timeout: no answer in time")],
)
def test_a_broken_connection_and_a_time_out_are_told_apart(name: str, error: str) -> None:
    """Only the time-out says that the server is overloaded; the other takes it out of turn until it answers."""
    with ScriptedServer(first_times(1, TRANSIENT[name])) as server:
        (outcome,) = call_all([server.url], ["q"])
    assert outcome.error.startswith(error)


@pytest.mark.parametrize("status", [400, 404, 413, 422])
def test_a_permanent_refusal_is_asked_once(status: int) -> None:
    message = "This model's maximum context length is 4096 tokens"
    with ScriptedServer(first_times(99, Reply(message, status=status))) as server:
        (outcome,) = call_all([server.url], ["q"])
    assert (outcome.status, outcome.text, outcome.attempts) == (Status.REJECTED, "", 1)
    assert outcome.error.startswith(f"HTTP {status}:")
    assert message in outcome.error
    assert server.seen["q"] == 1


@pytest.mark.parametrize(("finish", "status"), [("length", Status.LENGTH), ("content_filter", Status.INTERRUPTED)])
def test_a_reply_that_was_cut_is_recorded_as_cut(finish: str, status: Status) -> None:
    with ScriptedServer(lambda *_: Reply("<think>half a", finish=finish)) as server:
        (outcome,) = call_all([server.url], ["q"])
    assert (outcome.status, outcome.text, outcome.finish_reason) == (status, "<think>half a", finish)
    assert server.seen["q"] == 1


def test_what_is_sent_and_what_is_read() -> None:
    with ScriptedServer(lambda *_: Reply("B", message={"reasoning_content": "hm"})) as server:
        (outcome,) = call_all([server.url], ["q"], key="sk-1")
    assert server.bodies == [
        {
            "model": "m",
            "messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}],
            "max_tokens": 8,
            "temperature": 0.5,
            "top_k": 3,
        }
    ]
    assert "authorization: bearer sk-1" in server.headers[0].lower()
    assert (outcome.text, outcome.reasoning) == ("B", "hm")
    assert outcome.usage == {"prompt_tokens": 3, "completion_tokens": 2}


def test_retry_after_is_honoured() -> None:
    with ScriptedServer(first_times(1, Reply("later", status=429, headers={"retry-after": "0.7"}))) as server:
        (outcome,) = call_all([server.url], ["q"])
    assert outcome.status is Status.OK
    assert outcome.latency >= 0.7


def test_a_lone_surrogate_becomes_text_that_can_be_stored() -> None:
    with ScriptedServer(lambda *_: Reply("a\ud800b")) as server:
        (outcome,) = call_all([server.url], ["q"])
    assert outcome.text == "a\ufffdb"


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_stops_the_run_without_telling_the_key(status: int) -> None:
    reply = Reply("Incorrect API key provided: sk-secret-1234", status=status)
    with ScriptedServer(lambda *_: reply) as server, pytest.raises(StageError) as caught:
        call_all([server.url], ["q"], key="sk-secret-1234", api_key_env="MY_KEY")
    assert "MY_KEY" in str(caught.value)
    assert "sk-secret-1234" not in str(caught.value)
    assert "[redacted]" in str(caught.value)


def test_a_key_that_a_server_repeats_is_never_recorded() -> None:
    def respond(body: dict[str, Any], text: str, times: int) -> Reply:
        return Reply("bad key sk-secret-1234", status=400) if text == "error" else Reply("you sent sk-secret-1234")

    with ScriptedServer(respond) as server:
        outcomes = call_all([server.url], ["error", "reply"], key="sk-secret-1234")
    assert [outcome.status for outcome in outcomes] == [Status.REJECTED, Status.OK]
    assert "sk-secret" not in json.dumps([vars(outcome) for outcome in outcomes], default=str)


def test_calls_are_spread_over_all_addresses() -> None:
    with (
        ScriptedServer(lambda *_: Reply("a"), latency=0.02) as one,
        ScriptedServer(lambda *_: Reply("b"), latency=0.02) as two,
    ):
        call_all([one.url, two.url], [f"q{i}" for i in range(40)])
    assert sum(one.seen.values()) + sum(two.seen.values()) == 40
    assert min(sum(one.seen.values()), sum(two.seen.values())) >= 10


def test_no_more_calls_are_under_way_than_allowed() -> None:
    with ScriptedServer(lambda *_: Reply("a"), latency=0.02) as server:
        call_all([server.url], [f"q{i}" for i in range(40)], max_concurrency=6)
    assert server.peak == 6


def test_a_dead_address_is_left_out_and_its_calls_go_elsewhere() -> None:
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
            async with ServerPool("vision", config, MODEL, None) as pool:
                await pool.check()
                calls = asyncio.gather(*(pool.call(text_part(text)) for text in texts))
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


def test_no_server_at_all_is_told_and_stops_the_run(caplog: pytest.LogCaptureFixture) -> None:
    with ScriptedServer(lambda *_: Reply("a")) as server:
        url = server.url
    with pytest.raises(StageError, match=r"vision\.base_urls: none of the 1 servers answered for 1 s"):
        call_all([url], ["q"], server_wait_seconds=1)
    told = "vision: no server answers (connection refused); waiting for one, up to 1 s"
    assert [record.getMessage() for record in caplog.records] == [told]
    with pytest.raises(StageError, match=r"start them \(docs/traces\.md: vllm serve moonshotai/Kimi-VL"):
        call_all([url], ["q"], server_wait_seconds=0.1, preset="kimi-vl-a3b-thinking-2506")


def test_another_model_is_noticed_before_the_first_call() -> None:
    with (
        ScriptedServer(lambda *_: Reply("a"), models=("other",)) as server,
        pytest.raises(StageError, match=r"vision\.model: server 0 offers 'other', not 'm'"),
    ):
        call_all([server.url], ["q"])
    assert not server.seen


def test_an_overloaded_server_gets_fewer_calls_at_once() -> None:
    """The server answers 429 whenever more than 3 calls are under way; the limit must settle near that."""
    server = ScriptedServer(lambda *_: Reply("a"), latency=0.01)
    refused = 0

    def respond(body: dict[str, Any], text: str, times: int) -> Reply:
        nonlocal refused
        if server._under_way >= 3:
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


@pytest.mark.timeout(60)
def test_a_drip_of_bytes_does_not_keep_an_attempt_alive() -> None:
    """A time-out that starts anew with every byte would wait for ever."""

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET"):
            writer.write(b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 11\r\n\r\n{"data":[]}')
            return
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n")
        try:
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.1)
        except ConnectionError:
            return

    async def main() -> Outcome:
        server = await asyncio.start_server(drip, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        config = replace(CONFIG, base_urls=[url], max_attempts=2, request_timeout_seconds=0.4)
        async with ServerPool("vision", config, MODEL, None) as pool:
            return await pool.call(text_part("q"))

    outcome = asyncio.run(main())
    assert (outcome.status, outcome.attempts) == (Status.GAVE_UP, 2)
