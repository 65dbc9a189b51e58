"""Replies as real servers give them, in a whole trace run: final, with their reasons, and `write` works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from avrt.data.shards import ShardSet
from avrt.servers.outcome import Status
from avrt.traces.ledger import LedgerIndex
from avrt.traces.pipeline import run_traces
from tests.servers.scripted_server import Reply, ScriptedServer
from tests.traces.question_set import answer, kept, make_config, vision_right

COUNT = 40

ANSWER = "Answer: (D) white hare"
"""Right about question 3."""

FINAL = {
    "content null": (Reply(message={"content": None}), Status.INTERRUPTED),
    "refusal": (Reply(message={"content": None, "refusal": "I can't help."}), Status.INTERRUPTED),
    "content filter": (Reply(message={"content": None}, finish="content_filter"), Status.INTERRUPTED),
    "content filter, text": (Reply(ANSWER, finish="content_filter"), Status.INTERRUPTED),
    "no message": (Reply(body={"choices": [{"finish_reason": "content_filter"}]}), Status.INTERRUPTED),
    "tool calls": (
        Reply(message={"content": None, "tool_calls": [{"id": "1", "type": "function"}]}, finish="tool_calls"),
        Status.INTERRUPTED,
    ),
    "thinking cut": (Reply(message={"content": "", "reasoning_content": "I see"}, finish="length"), Status.LENGTH),
    "thinking cut, null": (Reply(message={"content": None, "reasoning": "I see"}, finish="length"), Status.LENGTH),
    "parts": (Reply(message={"content": [{"type": "text", "text": ANSWER}]}), Status.OK),
    "parts with thinking": (
        Reply(message={"content": [{"type": "thinking", "thinking": "Fur."}, {"type": "text", "text": ANSWER}]}),
        Status.OK,
    ),
    "no finish_reason": (Reply(ANSWER, finish=None), Status.OK),
    "no finish_reason, all tokens used": (
        Reply(
            body={
                "choices": [{"message": {"content": ANSWER}, "finish_reason": None}],
                "usage": {"completion_tokens": 64},
            }
        ),
        Status.LENGTH,
    ),
    "half a surrogate pair": (Reply(ANSWER + " \ud83d"), Status.OK),
    "half a surrogate pair for the letter's mark": (Reply("\udc4d" + ANSWER), Status.OK),
}
"""Forms of a teacher's reply, and how the call ends."""


@pytest.mark.parametrize("form", FINAL)
def test_a_teachers_reply_is_final_and_the_run_is_written(form: str, question_shards: Path, tmp_path: Path) -> None:
    reply, status = FINAL[form]

    def respond(body: dict[str, Any], text: str, times: int) -> Reply:
        vision = body["messages"][-1]["content"][0]["type"] == "image_url"
        return reply if vision and "clip number 3?" in text else answer(body, text, times)

    with ScriptedServer(respond) as server:
        config = make_config(question_shards, tmp_path, server.url)
        statistics = run_traces(config)
        calls = server.seen.total()
        assert all(count == 1 for count in server.seen.values()), "called more than once"
        assert run_traces(config) == statistics
        assert server.seen.total() == calls, "the next run calls again"
    assert statistics is not None
    assert sum(statistics["outcomes"]["vision"].values()) == COUNT
    right = sum(map(vision_right, range(COUNT)))
    if status is Status.OK:
        assert statistics["outcomes"]["vision"]["right"] == right
    else:
        assert statistics["outcomes"]["vision"]["right"] == right - 1
        assert statistics["yield"][f"vision_{status.value}"] == 1
    assert statistics["yield"]["kept"] == sum(map(kept, range(COUNT))) - (status is not Status.OK)
    ledger = LedgerIndex(config.ledger)
    assert len(ledger) == server.seen.total()


@pytest.mark.parametrize(
    ("change", "reasoning"),
    [
        (lambda text: text.replace("<think>", ""), "Let me merge these two."),  # SGLang
        (lambda text: text[text.index("</think>") + 8 :], "<think>Heard and seen.</think>"),
        (lambda text: [{"type": "text", "text": text}], ""),
        (lambda text: text.replace("Heard", "\ud83dHeard"), ""),
    ],
)
def test_a_mergers_trace_is_kept_in_every_form(
    change: Any, reasoning: str, question_shards: Path, tmp_path: Path
) -> None:
    def respond(body: dict[str, Any], text: str, times: int) -> Reply:
        reply = answer(body, text, times)
        if len(body["messages"][0]["content"]) == 1:
            reply.message = {"content": change(reply.text), "reasoning_content": reasoning}
        return reply

    with ScriptedServer(respond) as server:
        statistics = run_traces(make_config(question_shards, tmp_path, server.url))
    assert statistics is not None
    assert statistics["yield"]["kept"] == sum(map(kept, range(COUNT)))
    for sample in ShardSet(tmp_path / "out" / "train"):
        assert "eard and seen" in (sample.trace or "")


def test_write_says_why_calls_are_missing(question_shards: Path, tmp_path: Path) -> None:
    def respond(body: dict[str, Any], text: str, times: int) -> Reply:
        if body["messages"][-1]["content"][0]["type"] == "image_url" and "clip number 3?" in text:
            return Reply(fault="no_choices")
        return answer(body, text, times)

    with ScriptedServer(respond) as server:
        config = make_config(question_shards, tmp_path, server.url)
        with pytest.raises(ValueError, match=r"1 of stage vision.*1 gave_up \(1 x bad reply: .* 0 choices"):
            run_traces(config)
        with pytest.raises(ValueError, match=r"1 of stage vision.*1 gave_up \(1 x bad reply: .* 0 choices"):
            run_traces(config, steps=["write"])
