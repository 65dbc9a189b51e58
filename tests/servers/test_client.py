"""Every fault a server can show, against a real local server: status, number of attempts, and no false reply."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from avrt.servers.client import ServerClient, ServerError
from avrt.servers.outcome import Outcome, Status
from tests.servers.client_calls import CONFIG, MODEL, call_all, first_times, message
from tests.servers.scripted_server import Reply, ScriptedServer

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
}


@pytest.mark.parametrize("name", TRANSIENT)
def test_a_passing_fault_is_retried_until_the_answer_comes(name: str) -> None:
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
def test_a_broken_connection_and_a_timeout_have_different_errors(name: str, error: str) -> None:
    """Only the timeout lowers the limit; after the other the server gets no calls until it answers a probe."""
    with ScriptedServer(first_times(1, TRANSIENT[name])) as server:
        (outcome,) = call_all([server.url], ["q"])
    assert outcome.error.startswith(error)


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_permanent_refusal_is_sent_once(status: int) -> None:
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


def test_a_404_for_one_call_rejects_that_call() -> None:
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
        with pytest.raises(ServerError, match=r"vision\.base_urls\[0\]: .*404.*Not Found.*check it") as caught:
            call_all([server.url], ["q"])
        assert "/v1," not in str(caught.value), "the address has it already"
    with (
        ScriptedServer(lambda *_: Reply("The model `m` does not exist.", status=404), models=()) as server,
        pytest.raises(ServerError, match=r"vision\.model: server 0 does not offer 'm'.*set vision\.model"),
    ):
        call_all([server.url], ["q"])


@pytest.mark.parametrize("path", ["", "/api", "/v1/chat/completions"])
def test_an_address_without_v1_is_named_before_the_first_call(path: str) -> None:
    with ScriptedServer(lambda *_: Reply("a"), under="/v1/models" if "chat" in path else "/v1/") as server:
        with pytest.raises(ServerError, match=r"vision\.base_urls\[0\]: .*404.*must end in /v1"):
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
    with ScriptedServer(lambda *_: reply) as server, pytest.raises(ServerError, match="no quota left"):
        call_all([server.url], ["q"])


def test_another_model_is_noticed_before_the_first_call() -> None:
    with (
        ScriptedServer(lambda *_: Reply("a"), models=("other",)) as server,
        pytest.raises(ServerError, match=r"vision\.model: server 0 offers 'other', not 'm'"),
    ):
        call_all([server.url], ["q"])
    assert not server.seen


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


def test_retry_after_is_honored() -> None:
    with ScriptedServer(first_times(1, Reply("later", status=429, headers={"retry-after": "0.7"}))) as server:
        (outcome,) = call_all([server.url], ["q"])
    assert outcome.status is Status.OK
    assert outcome.latency >= 0.7


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_stops_the_run_and_is_not_in_the_error(status: int) -> None:
    reply = Reply("Incorrect API key provided: sk-secret-1234", status=status)
    with ScriptedServer(lambda *_: reply) as server, pytest.raises(ServerError) as caught:
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


@pytest.mark.timeout(60)
def test_a_slow_stream_of_bytes_does_not_keep_an_attempt_alive() -> None:
    """A timeout that restarts with every byte would wait forever."""

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
        async with ServerClient("vision", config, MODEL, None) as client:
            return await client.call(message("q"))

    outcome = asyncio.run(main())
    assert (outcome.status, outcome.attempts) == (Status.GAVE_UP, 2)


@pytest.mark.parametrize("pause", ["Mon, 01 Jan 2000 00:00:00 +99999999999999", "1e400", "nan", "soon"])
def test_a_pause_that_no_clock_shows_is_none(pause: str) -> None:
    with ScriptedServer(first_times(1, Reply("later", status=429, headers={"retry-after": pause}))) as server:
        (outcome,) = call_all([server.url], ["q"], max_backoff_seconds=0.1)
    assert outcome.status is Status.OK


def test_counts_that_no_tokenizer_gives_are_left_out() -> None:
    usage = {"prompt_tokens": 10**400, "completion_tokens": -1}
    reply = Reply(body={"choices": [{"message": {"content": "B"}, "finish_reason": "stop"}], "usage": usage})
    with ScriptedServer(lambda *_: reply) as server:
        (outcome,) = call_all([server.url], ["q"])
    assert (outcome.text, outcome.usage) == ("B", {})
