"""Replies in the dialects of OpenAI-compatible servers."""

from __future__ import annotations

from typing import Any

import pytest

from avrt.servers.outcome import Status
from tests.servers.client_calls import call_all
from tests.servers.scripted_server import Reply, ScriptedServer

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
def test_complete_replies_are_read_in_every_dialect(reply: Reply, text: str, reasoning: str) -> None:
    with ScriptedServer(lambda *_: reply) as server:
        (outcome,) = call_all([server.url], ["q"])
    assert (outcome.status, outcome.finish_reason, outcome.attempts) == (Status.OK, "stop", 1)
    assert (outcome.text, outcome.reasoning, outcome.error) == (text, reasoning, "")


@pytest.mark.parametrize("finish", ["length", "max_tokens", "MAX_TOKENS", "model_length"])
def test_every_name_of_the_token_limit_is_known(finish: str) -> None:
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
def test_without_a_finish_reason_the_length_decides(body: dict[str, Any], status: Status) -> None:
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
        (Reply(message={"content": [{"type": "refusal", "refusal": "I can't."}]}), "refusal", "refusal: I can't."),
        (Reply(message={"content": [{"type": "image_url", "image_url": {}}]}), "stop", "a list without text"),
        (Reply(message={"content": []}), "stop", "a list without text"),
        (Reply(message={"content": None, "function_call": {"name": "f"}}), "tool_calls", "tool call"),
        (Reply(body={"choices": [{"finish_reason": "content_filter"}]}), "content_filter", "'content_filter'"),
    ],
)
def test_a_reply_without_an_answer_is_final_and_says_why(reply: Reply, finish: str, error: str) -> None:
    with ScriptedServer(lambda *_: reply) as server:
        (outcome,) = call_all([server.url], ["q"])
    assert (outcome.status, outcome.finish_reason, outcome.attempts) == (Status.INTERRUPTED, finish, 1)
    assert error in outcome.error
    assert server.seen["q"] == 1


@pytest.mark.parametrize("finish", ["abort", "error", "cancelled"])
def test_a_reply_that_the_server_ended_itself_is_asked_for_again(finish: str) -> None:
    def respond(body: dict[str, Any], text: str, times: int) -> Reply:
        return Reply("half a", finish=finish) if text == "never" or times < 2 else Reply("B")

    with ScriptedServer(respond) as server:
        soon, never = call_all([server.url], ["q", "never"])
    assert (soon.status, soon.text, soon.attempts) == (Status.OK, "B", 3)
    assert (never.status, never.attempts) == (Status.GAVE_UP, 4)
    assert repr(finish) in never.error


@pytest.mark.parametrize("reasoning", ["", "I see a"])
@pytest.mark.parametrize("content", [None, "", []])
def test_thinking_that_the_token_limit_cut_is_final(content: Any, reasoning: str) -> None:
    message = {"content": content, "reasoning_content": reasoning}
    with ScriptedServer(lambda *_: Reply(message=message, finish="length")) as server:
        (outcome,) = call_all([server.url], ["q"])
    assert (outcome.status, outcome.text, outcome.reasoning, outcome.attempts) == (Status.LENGTH, "", reasoning, 1)


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
        ({"choices": [{"message": {"content": [3]}}]}, "content is a list with int 3"),
        ({"choices": [{"finish_reason": None}]}, "a choice without a message"),
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


def test_a_lone_surrogate_becomes_text_that_can_be_stored() -> None:
    with ScriptedServer(lambda *_: Reply("a\ud800b")) as server:
        (outcome,) = call_all([server.url], ["q"])
    assert outcome.text == "a\ufffdb"
