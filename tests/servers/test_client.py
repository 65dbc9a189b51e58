"""Every fault a server can show, against a real local server: status, number of attempts, and no false trace."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from avrt.servers.client import ServerPool, StageError
from avrt.servers.concurrency import AdaptiveLimit
from avrt.servers.config import Model, StageConfig
from avrt.servers.replies import Outcome
from avrt.servers.status import Status
from tests.servers.scripted_server import Reply, ScriptedServer

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
    "error_with_status_200": Reply(body={"error": {"message": "upstream overloaded", "code": 502}}),
    "image_in_the_reply": Reply(message={"content": [{"type": "image_url", "image_url": {"url": "data:"}}]}),
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


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_permanent_refusal_is_asked_once(status: int) -> None:
    message = "This model's maximum context length is 4096 tokens"
    with ScriptedServer(first_times(99, Reply(message, status=status))) as server:
        (outcome,) = call_all([server.url], ["q"])
    assert (outcome.status, outcome.text, outcome.attempts) == (Status.REJECTED, "", 1)
    assert outcome.error.startswith(f"HTTP {status}:")
    assert message in outcome.error
    assert server.seen["q"] == 1


def hello_or(reply: Reply) -> Callable[[dict[str, Any], str, int], Reply]:
    """`reply` to every call but the client's own short one."""
    return lambda body, text, times: Reply("Hi") if text == "Hello" else reply


def test_a_404_for_one_call_is_a_verdict_on_that_call() -> None:
    with ScriptedServer(hello_or(Reply("no such file", status=404))) as server:
        (outcome,) = call_all([server.url], ["q"])
    assert (outcome.status, outcome.attempts) == (Status.REJECTED, 1)
    assert "no such file" in outcome.error
    assert server.seen == {"q": 1, "Hello": 1}


@pytest.mark.parametrize("listed", [True, False])
def test_a_404_for_every_call_stops_the_run(listed: bool) -> None:
    """Whether or not the server lists its models: nothing may be recorded about the calls."""
    wrong = Reply("Not Found", status=404)
    with ScriptedServer(lambda *_: wrong, models=("m",) if listed else ()) as server:
        with pytest.raises(StageError, match=r"vision\.base_urls\[0\]: .*404.*Not Found.*check it") as caught:
            call_all([server.url], ["q"])
        assert "/v1," not in str(caught.value), "the address has it already"
    with (
        ScriptedServer(lambda *_: Reply("The model `m` does not exist.", status=404), models=()) as server,
        pytest.raises(StageError, match=r"vision\.model: server 0 does not offer 'm'.*set vision\.model"),
    ):
        call_all([server.url], ["q"])


@pytest.mark.parametrize("path", ["", "/api", "/v1/chat/completions"])
def test_an_address_without_v1_is_named_before_the_first_call(path: str) -> None:
    with ScriptedServer(lambda *_: Reply("a"), under="/v1/models" if "chat" in path else "/v1/") as server:
        with pytest.raises(StageError, match=r"vision\.base_urls\[0\]: .*404.*must end in /v1"):
            call_all([server.url.removesuffix("/v1") + path], ["q"])
        assert not server.seen


@pytest.mark.parametrize(
    "reply",
    [
        Reply("insufficient credits", status=402),
        Reply(status=429, body={"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}),
    ],
    ids=["402", "quota"],
)
def test_an_account_without_quota_stops_the_run(reply: Reply) -> None:
    with ScriptedServer(lambda *_: reply) as server, pytest.raises(StageError, match="no quota left"):
        call_all([server.url], ["q"])


TEXT = {"type": "text", "text": "The answer is B."}
THINKING = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}


@pytest.mark.parametrize(
    ("reply", "text", "reasoning"),
    [
        (Reply(message={"content": [TEXT]}), "The answer is B.", ""),
        (Reply(message={"content": ["The answer", " is B."]}), "The answer is B.", ""),
        (Reply(message={"content": [THINKING, TEXT]}), "The answer is B.", "hm"),
        (Reply(message={"content": [{"type": "reasoning", "text": "hm"}, TEXT]}), "The answer is B.", "hm"),
        (Reply("B", message={"reasoning": {"text": "hm"}}), "B", "hm"),
        (Reply("B", message={"reasoning_details": [{"type": "reasoning.text", "text": "hm"}]}), "B", "hm"),
        (Reply("B", message={"reasoning_content": None, "reasoning": "hm"}), "B", "hm"),
        (Reply(message={"content": None, "reasoning": "B, then"}), "", "B, then"),
        (Reply("B", finish="eos_token"), "B", ""),
        (Reply("B", finish="end_turn"), "B", ""),
        (Reply("B", finish="stop_sequence"), "B", ""),
        (Reply("B", finish="STOP"), "B", ""),
        (Reply("B", finish=None), "B", ""),
        (Reply("", finish="stop"), "", ""),
    ],
)
def test_good_replies_in_every_dialect_are_whole(reply: Reply, text: str, reasoning: str) -> None:
    with ScriptedServer(lambda *_: reply) as server:
        (outcome,) = call_all([server.url], ["q"])
    assert (outcome.status, outcome.finish_reason, outcome.attempts) == (Status.OK, "stop", 1)
    assert (outcome.text, outcome.reasoning, outcome.error) == (text, reasoning, "")


@pytest.mark.parametrize("finish", ["length", "max_tokens", "MAX_TOKENS", "model_length"])
def test_the_token_limit_is_known_by_every_name(finish: str) -> None:
    with ScriptedServer(lambda *_: Reply("half a", finish=finish)) as server:
        (outcome,) = call_all([server.url], ["q"])
    assert (outcome.status, outcome.finish_reason, outcome.text) == (Status.LENGTH, "length", "half a")


def completion(usage: dict[str, int] | None, text: str) -> dict[str, Any]:
    return {"choices": [{"message": {"content": text}}], "usage": usage}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (completion({"completion_tokens": 7}, "x" * 99), Status.OK),
        (completion({"completion_tokens": 8}, "x"), Status.LENGTH),  # all that max_tokens allows
        (completion(None, "x" * 7), Status.OK),  # eight tokens have eight bytes at least
        (completion(None, "x" * 8), Status.INTERRUPTED),
    ],
)
def test_without_a_finish_reason_the_length_tells(body: dict[str, Any], status: Status) -> None:
    with ScriptedServer(lambda *_: Reply(body=body)) as server:
        (outcome,) = call_all([server.url], ["q"])
    assert (outcome.status, outcome.attempts) == (status, 1)
    assert ("no finish_reason" in outcome.error) == (status is Status.INTERRUPTED)


@pytest.mark.parametrize(
    ("reply", "finish", "error"),
    [
        (Reply(message={"content": None}), "stop", "the reply has no text (content is null)"),
        (Reply(message={"content": None, "refusal": "I can't help."}), "refusal", "refusal: I can't help."),
        (Reply(message={"content": None, "tool_calls": [{"id": "1"}]}), "tool_calls", "tool call"),
        (Reply(message={"content": None}, finish="tool_calls"), "tool_calls", "finish_reason 'tool_calls'"),
        (Reply(message={"content": None}, finish="content_filter"), "content_filter", "'content_filter'"),
        (Reply("half a", finish="abort"), "abort", "'abort'"),
    ],
)
def test_a_reply_without_an_answer_is_final_and_says_why(reply: Reply, finish: str, error: str) -> None:
    with ScriptedServer(lambda *_: reply) as server:
        (outcome,) = call_all([server.url], ["q"])
    assert (outcome.status, outcome.finish_reason, outcome.attempts) == (Status.INTERRUPTED, finish, 1)
    assert error in outcome.error
    assert server.seen["q"] == 1


@pytest.mark.parametrize(
    ("body", "status", "attempts"),
    [
        ({"error": {"message": "upstream overloaded", "code": 502}}, Status.GAVE_UP, 4),
        ({"error": "upstream overloaded"}, Status.GAVE_UP, 4),
        ({"object": "error", "message": "upstream overloaded", "code": 400}, Status.REJECTED, 1),
        ({"choices": [{"error": {"message": "upstream overloaded", "code": "503"}}]}, Status.GAVE_UP, 4),
    ],
)
def test_an_error_with_status_200_keeps_the_servers_words(body: dict[str, Any], status: Status, attempts: int) -> None:
    with ScriptedServer(lambda *_: Reply(body=body)) as server:
        (outcome,) = call_all([server.url], ["q"])
    assert (outcome.status, outcome.attempts) == (status, attempts)
    assert outcome.error == "error with status 200: upstream overloaded"


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ("data: {}", "text that begins 'data: {}'"),
        ({"choices": []}, "0 choices"),
        ({"choices": [{"message": {"content": "a"}}, {"message": {"content": "b"}}]}, "2 choices"),
        ({"choices": [{"message": {"content": 3}, "finish_reason": "stop"}]}, "content is int 3"),
        ({"choices": [{"message": {"content": [{"type": "audio"}]}}]}, "a list with a part that is not text"),
    ],
)
def test_what_is_wrong_with_a_body_is_named(body: Any, named: str) -> None:
    with ScriptedServer(lambda *_: Reply(body=body)) as server:
        (outcome,) = call_all([server.url], ["q"], max_attempts=1)
    assert outcome.status is Status.GAVE_UP
    assert named in outcome.error


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
