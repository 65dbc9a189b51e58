"""Settings under which every call fails reject no sample, and the run says what is wrong."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from avrt.servers.call_report import CallReport, ErrorCounts
from avrt.servers.client import ServerError
from avrt.servers.outcome import Outcome, Status
from avrt.traces.call_records import CallRecord, decode_record
from avrt.traces.config import TracesConfig
from avrt.traces.ledger import LedgerIndex, LedgerWriter
from avrt.traces.pipeline import run_traces
from tests.servers.scripted_server import Reply, ScriptedServer
from tests.traces.question_set import answer, change_stage, make_config

COUNT = 40


def records(root: Path) -> list[CallRecord]:
    path = root / "ledger" / "calls.jsonl"
    return [decode_record(line) for line in path.read_bytes().splitlines(keepends=True)] if path.exists() else []


def at(config: TracesConfig, url: str) -> TracesConfig:
    """The same run with other servers."""
    for name in config.stages:
        config = change_stage(config, name, base_urls=[url])
    return config


def test_a_base_url_without_v1_stops_immediately_and_records_nothing(question_shards: Path, tmp_path: Path) -> None:
    with ScriptedServer(answer, under="/v1/") as server:
        config = make_config(question_shards, tmp_path, server.url)
        with pytest.raises(ServerError, match=r"vision\.base_urls\[0\]: .*must end in /v1"):
            run_traces(at(config, server.url.removesuffix("/v1")), steps=["vision"])
        assert records(tmp_path) == []
        statistics = run_traces(config)
    assert statistics is not None
    assert statistics["yield"]["kept"] > 0


@pytest.mark.parametrize("status", [400, 404, 405, 422, 401])
def test_no_refusal_is_final_before_any_call_was_answered(status: int, question_shards: Path, tmp_path: Path) -> None:
    with ScriptedServer(lambda *_: Reply("Unrecognized argument: top_k", status=status)) as server:
        config = make_config(question_shards, tmp_path, server.url)
        with pytest.raises(ServerError, match=rf"HTTP {status}.*Unrecognized argument"):
            run_traces(config, steps=["vision"])
        assert all(record.status is Status.GAVE_UP for record in records(tmp_path))
        server.respond = answer
        statistics = run_traces(config)
    assert statistics is not None
    assert not [reason for reason in statistics["yield"] if "rejected" in reason]


def test_a_refusal_is_final_once_another_call_was_answered(question_shards: Path, tmp_path: Path) -> None:
    """In either order, and also in a later run that calls for no other sample."""

    def respond(body: dict[str, Any], text: str, times: int) -> Reply:
        if "clip number 0?" in text:
            return Reply("too long", status=400)
        if "clip number 1?" in text and not later:
            return Reply("oops", status=500)
        return Reply("too long", status=413) if "clip number 1?" in text else answer(body, text, times)

    later = False
    with ScriptedServer(respond) as server:
        config = make_config(question_shards, tmp_path, server.url)
        run_traces(config, steps=["vision"])
        later = True
        run_traces(config, steps=["vision"])
        seen = server.seen.total()
        run_traces(config, steps=["vision"])
        assert server.seen.total() == seen, "called again for a refused sample"
    index = LedgerIndex(tmp_path / "ledger")
    rejected = {r.sample for r in records(tmp_path) if r.status is Status.REJECTED}
    assert rejected == {"q000", "q001"}
    assert len(index) == COUNT


def test_a_stage_says_why_calls_failed_and_how_to_call_again(
    question_shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def respond(body: dict[str, Any], text: str, times: int) -> Reply:
        for index in (2, 3, 4):
            if f"clip number {index}?" in text:
                return Reply(f"the prompt has {9000 + index} tokens", status=400)
        return Reply("oops", status=500) if "clip number 7?" in text else answer(body, text, times)

    with ScriptedServer(respond) as server:
        run_traces(make_config(question_shards, tmp_path, server.url), steps=["vision"])
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("vision: 3 rejected (3 x HTTP 400: ")
    assert "the prompt has 900" in line
    assert "--retry-rejected" in line
    assert "1 gave_up (1 x HTTP 500: " in line


def test_refusals_that_an_earlier_run_recorded_are_explained(question_shards: Path, tmp_path: Path) -> None:
    """Nothing is called, but the stage must not end as if it had succeeded."""
    from avrt.data.shards import ShardSet
    from avrt.traces.call_planner import CallPlanner

    with ScriptedServer(answer) as server:
        config = make_config(question_shards, tmp_path, server.url)
        planner = CallPlanner(config, ShardSet(question_shards))

        async def reject_all() -> None:
            async with LedgerWriter(config.ledger) as writer:
                for call in planner.calls("vision", LedgerIndex(config.ledger)):
                    error = "HTTP 404: Error code: 404 - {'detail': 'Not Found'}"
                    await writer.append(
                        CallRecord(
                            key=call.key,
                            stage="vision",
                            sample=call.sample.id,
                            status=Status.REJECTED,
                            error=error,
                        )
                    )

        asyncio.run(reject_all())
        expected = rf"vision: none of {COUNT} calls succeeded: {COUNT} rejected \({COUNT} x HTTP 404.*--retry-rejected"
        with pytest.raises(ServerError, match=expected):
            run_traces(config)
        assert not server.seen
        # The last step alone says it too.
        with pytest.raises(ValueError, match=r"no trace is kept.*HTTP 404.*--retry-rejected"):
            run_traces(replace(config, allow_missing=True), steps=["write"])
        statistics = run_traces(config, retry_rejected=True)
    assert statistics is not None
    assert statistics["yield"]["kept"] > 0


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply("cut", finish="length"), "40 length (40 x cut by the token limit; raise sampling.max_tokens)"),
        (
            Reply(message={"content": None}),
            "40 interrupted (40 x the reply has no text (content is null); fix the cause and call again with "
            "--retry-rejected)",
        ),
        (Reply("oops", status=500), "40 gave_up (40 x HTTP 500"),
    ],
)
def test_a_stage_without_a_success_fails(reply: Reply, said: str, question_shards: Path, tmp_path: Path) -> None:
    with ScriptedServer(lambda *_: reply) as server:
        config = make_config(question_shards, tmp_path, server.url)
        config.teachers["vision"].max_attempts = 1
        with pytest.raises(ServerError) as caught:
            run_traces(config)
    assert said in str(caught.value)
    assert "audio" not in str(caught.value)


def test_replies_that_an_earlier_version_called_interrupted_are_whole(question_shards: Path, tmp_path: Path) -> None:
    with ScriptedServer(answer) as server:
        config = make_config(question_shards, tmp_path, server.url)
        run_traces(config, steps=["vision"])
        old = [replace(r, status=Status.INTERRUPTED, finish_reason="eos_token") for r in records(tmp_path)]
        (tmp_path / "ledger" / "calls.jsonl").unlink()

        async def rewrite() -> None:
            async with LedgerWriter(config.ledger) as writer:
                for record in old:
                    await writer.append(record)

        asyncio.run(rewrite())
        seen = server.seen.total()
        run_traces(config, steps=["vision"])
        assert server.seen.total() == seen
    assert all((r.status, r.finish_reason) == (Status.OK, "stop") for r in records(tmp_path))


def test_errors_that_differ_in_numbers_are_one() -> None:
    errors = ErrorCounts()
    for length in (5, 70, 812):
        errors.add(f"prompt of {length} tokens")
    for name in ("a", "b", "c"):
        errors.add(name)
    assert str(errors) == "3 x prompt of 5 tokens; 1 x a; 1 x b; and 1 others"


def test_a_report_survives_its_json() -> None:
    report = CallReport()
    report.add_made(Outcome(Status.OK))
    report.add_made(Outcome(Status.REJECTED, error="no"))
    report.add_earlier(Outcome(Status.LENGTH))
    total = CallReport()
    total.add(CallReport.from_json(report.to_json()))
    assert total.made == {Status.OK: 1, Status.REJECTED: 1}
    assert total.explain("call again") == report.explain("call again")
