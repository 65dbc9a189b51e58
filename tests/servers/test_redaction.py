"""No part of an API key leaves the client, wherever a server repeats it and wherever a message is cut."""

from __future__ import annotations

import asyncio
import json
import traceback
from collections.abc import Callable
from dataclasses import replace

import pytest

from avrt.servers.client import ServerClient, ServerError
from avrt.servers.outcome import Outcome, Status
from tests.servers.client_calls import CONFIG, MODEL, call_all, message
from tests.servers.scripted_server import Reply, ScriptedServer

KEY = "Zq7-Xk2_Vm9/Wd4+Ty6=" * 2


def leaked(text: str) -> bool:
    """Whether any six characters in a row of the key are in a text."""
    return any(KEY[start : start + 6] in text for start in range(len(KEY) - 5))


def shown(outcome: Outcome) -> str:
    return json.dumps(vars(outcome), default=str, ensure_ascii=False)


@pytest.mark.parametrize("before", range(440, 520, 4))
@pytest.mark.parametrize(
    "reply",
    [
        lambda text: Reply(text, status=400),
        lambda text: Reply(text, status=500),
        lambda text: Reply(body={"error": {"message": text, "code": 400}}),
        lambda text: Reply(body={"error": text}),
    ],
    ids=["400", "500", "reported", "reported_text"],
)
def test_a_key_at_the_cut_of_a_long_error(reply: Callable[[str], Reply], before: int) -> None:
    with ScriptedServer(lambda *_: reply("e" * before + KEY + " is wrong")) as server:
        (outcome,) = call_all([server.url], ["q"], key=KEY, max_attempts=1)
    assert outcome.status.is_failure
    assert "[redacted]" in outcome.error or len(outcome.error) == 500
    assert not leaked(shown(outcome))


REPEATED = {
    "text": Reply(f"you sent {KEY}"),
    "reasoning": Reply("B", message={"reasoning_content": KEY}),
    "finish_reason": Reply("B", finish=f"stopped {KEY}"),
    "refusal": Reply(message={"content": None, "refusal": KEY}),
    "key_of_an_object": Reply(message={"content": [{"type": "x", KEY: KEY}]}),
    "part": Reply(message={"content": "x" * 70, "tool_calls": [KEY]}, finish=None),
    "content_of_another_type": Reply(message={"content": {"type": "v" * 40, "data": KEY}}),
    "finish_of_another_type": Reply("B", message={}, finish=[f"{'v' * 60}{KEY}"]),  # type: ignore[arg-type]
    "not_an_object": Reply(body=f"{'v' * 60}{KEY}"),
    "choices": Reply(body={"choices": KEY}),
    "usage": Reply(body={"choices": [{"message": {"content": "B"}}], "usage": {KEY: 1, "prompt_tokens": KEY}}),
    "header": Reply("B", status=429, headers={"retry-after": KEY}),
}


@pytest.mark.parametrize("name", REPEATED)
def test_a_key_anywhere_in_a_reply(name: str) -> None:
    with ScriptedServer(lambda *_: REPEATED[name]) as server:
        (outcome,) = call_all([server.url], ["q"], key=KEY, max_attempts=1)
    assert not leaked(shown(outcome))


def everything(error: BaseException) -> str:
    """What ``--debug`` prints of an error."""
    return "".join(traceback.format_exception(error))


@pytest.mark.parametrize("status", [401, 402, 404])
def test_a_key_in_an_error_that_ends_the_run(status: int) -> None:
    reply = Reply(f"{'e' * 470}{KEY}", status=status)
    with ScriptedServer(lambda *_: reply) as server, pytest.raises(ServerError) as caught:
        call_all([server.url], ["q"], key=KEY)
    assert not leaked(everything(caught.value))


def test_a_key_as_the_name_of_a_model() -> None:
    with (
        ScriptedServer(lambda *_: Reply("B"), models=(f"{'m' * 470}{KEY}",)) as server,
        pytest.raises(ServerError, match=r"vision\.model: server 0 offers") as caught,
    ):
        call_all([server.url], ["q"], key=KEY)
    assert not leaked(everything(caught.value))


def test_a_key_in_an_answer_that_is_not_http(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(f"HTTP/1.1 {KEY} {KEY}\r\n{KEY}\r\n\r\n".encode())
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        config = replace(CONFIG, base_urls=[url], server_wait_seconds=1.0)
        async with ServerClient("vision", config, MODEL, KEY) as client:
            await client.check()

    with pytest.raises(ServerError, match=r"vision\.base_urls: none of the 1 servers") as caught:
        asyncio.run(main())
    assert not leaked(everything(caught.value) + caplog.text)


@pytest.mark.parametrize("key", ["it's", 'a"b\\c', "a/b+c="])
def test_a_key_as_other_languages_write_it(key: str) -> None:
    """An error may contain the server's JSON as Python shows it, or the address of the request."""
    secret = f"{key}-0123456789"
    said = f"{secret} {secret!r} {json.dumps(secret)}"
    with ScriptedServer(lambda *_: Reply(body=[said], status=400)) as server:
        (outcome,) = call_all([server.url], ["q"], key=secret, max_attempts=1)
    assert "0123456789" not in outcome.error


def test_a_reply_that_is_nested_deeply_counts_as_a_bad_reply() -> None:
    async def main() -> Outcome:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            body = b'{"data": []}' if head.startswith("get") else b"[" * 100_000 + b"]" * 100_000
            kind = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n"
            writer.write(kind + f"content-length: {len(body)}\r\n\r\n".encode() + body)
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        async with ServerClient("vision", replace(CONFIG, base_urls=[url]), MODEL, None) as client:
            return await client.call(message("q"))

    outcome = asyncio.run(main())
    assert (outcome.status, outcome.attempts) == (Status.GAVE_UP, 4)
    assert "nested" in outcome.error


def test_a_key_in_parts_that_are_joined() -> None:
    half = len(KEY) // 2
    parts = [{"type": "text", "text": KEY[:half]}, {"type": "text", "text": KEY[half:]}]
    thoughts = [{"text": KEY[:half]}, {"text": KEY[half:]}]
    reply = Reply(message={"content": parts, "reasoning_details": thoughts})
    with ScriptedServer(lambda *_: reply) as server:
        (outcome,) = call_all([server.url], ["q"], key=KEY, max_attempts=1)
    assert (outcome.text, outcome.reasoning) == ("[redacted]", "[redacted]")


@pytest.mark.parametrize("key", ["none", "EMPTY", "a"])
def test_a_placeholder_changes_no_reply(key: str) -> None:
    with ScriptedServer(lambda *_: Reply("The answer is none of the above: EMPTY")) as server:
        (outcome,) = call_all([server.url], ["q"], key=key)
    assert outcome.text == "The answer is none of the above: EMPTY"
