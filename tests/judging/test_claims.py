"""What replies claim to have seen and heard: what the judge is asked, what is recorded, and the shares."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from avrt.cli import main
from avrt.config.errors import UsageError
from avrt.demo.servers import JUDGE_MODEL, server_url
from avrt.demo.trace_run import demo_server
from avrt.judging.claims import read_claims
from avrt.judging.claims_config import load_claims_config
from avrt.judging.claims_run import run_claims
from avrt.judging.claims_table import claims_table
from avrt.servers.client import ServerError
from avrt.servers.local_server import free_port
from avrt.traces.ledger import LedgerError
from tests.judging.judged_traces import blocks
from tests.servers.scripted_server import Reply, ScriptedServer
from tests.small_evaluations import write_evaluation

SEES = "<think>I see red, and {trace} hear nothing.</think>\n<answer>A</answer>"
HEARS = "<think>I hear hum.</think>\n<answer>B</answer>"
NEITHER = "<answer>C</answer>"


def write_run(folder: Path, replies: list[str], modalities: str = "A") -> str:
    write_evaluation(folder, "tiny", replies, modalities, gold="D")
    return str(folder)


def listed(text: str) -> str:
    """A judge that takes what follows "I see" and "I hear"."""
    reply = blocks(text)["reply"]
    found = {
        key: [part for part in reply.split(",") if word in part] for key, word in (("seen", "I see"), ("heard", "I h"))
    }
    return json.dumps(found)


def config_of(url: str, *options: str) -> Any:
    own = ["--judge.preset", "null", "--judge.model", "m", "--judge.base_urls", json.dumps([url])]
    return load_claims_config(["cli_configs/claims.yaml"], [*own, *options])


def test_every_reply_is_asked_about_once(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [SEES, HEARS, NEITHER, "", SEES])
    with ScriptedServer(lambda body, text, times: Reply(listed(text))) as server:
        shares = run_claims(config_of(server.url), [run], tmp_path / "claims")
        bodies = list(server.bodies)
        assert run_claims(config_of(server.url), [run], tmp_path / "claims") == shares
        assert len(server.bodies) == len(bodies) == 4
    assert [(share.stream, share.withheld, share.claiming, share.judged) for share in shares] == [
        ("seen", True, 2, 4),
        ("heard", False, 1, 4),
    ]
    lines = read_claims(tmp_path / "claims" / "claims.jsonl")
    assert [(line.id, line.modalities, bool(line.seen), bool(line.heard)) for line in lines] == [
        ("item-0", "A", True, False),
        ("item-1", "A", False, True),
        ("item-2", "A", False, False),
        ("item-4", "A", True, False),
    ]
    (content,) = bodies[0]["messages"][-1]["content"]
    text = content["text"]
    assert "{trace} hear nothing" in blocks(text)["reply"], "a reply's braces are text"
    assert "(A) red hum" in text
    assert "Right option" not in text
    assert bodies[0]["response_format"]["json_schema"]["schema"]["required"] == ["seen", "heard"]
    row = claims_table(shares).groups[0][0]
    assert row.cells[1].startswith("50.0")
    assert "not given" in row.cells[1]
    assert "not given" not in row.cells[3]


def test_equal_replies_of_two_runs_are_one_call(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / m, [SEES, NEITHER], m) for m in ("A", "V")]
    with ScriptedServer(lambda body, text, times: Reply(listed(text))) as server:
        shares = run_claims(config_of(server.url), runs, tmp_path / "claims")
        assert len(server.bodies) == 2
    assert [(share.modalities, share.stream, share.withheld, share.claiming) for share in shares] == [
        ("A", "seen", True, 1),
        ("A", "heard", False, 0),
        ("V", "seen", False, 1),
        ("V", "heard", True, 0),
    ]
    assert [line.modalities for line in read_claims(tmp_path / "claims" / "claims.jsonl")] == ["A", "A", "V", "V"]


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85", "\x0b", "\ud800"])
def test_statements_with_any_character(character: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [f"I see red{character}light"])
    found = json.dumps({"seen": [f"red{character}light"], "heard": []})
    with ScriptedServer(lambda body, text, times: Reply(found)) as server:
        run_claims(config_of(server.url), [run], tmp_path / "claims")
    (line,) = read_claims(tmp_path / "claims" / "claims.jsonl")
    assert line.seen == [f"red{character}light" if character != "\ud800" else "red\ufffdlight"]


def test_a_reply_that_is_no_verdict_is_asked_again_and_then_left_out(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [SEES, HEARS])

    def answer(body: dict[str, Any], text: str, times: int) -> Reply:
        return Reply("nothing to say" if "I hear hum" in text else listed(text))

    with ScriptedServer(answer) as server:
        shares = run_claims(config_of(server.url, "--judge.max_replies", "2"), [run], tmp_path / "claims")
        assert len(server.bodies) == 3
    assert [share.judged for share in shares] == [1, 1]
    one, other = read_claims(tmp_path / "claims" / "claims.jsonl")
    assert (one.error, other.seen) == ("", None)
    assert "JSON" in other.error


def test_calls_that_are_missing_are_an_error(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [SEES] * 3 + [HEARS] * 3)

    def answer(body: dict[str, Any], text: str, times: int) -> Reply:
        return Reply(listed(text)) if "I hear hum" in text else Reply("", status=500)

    with ScriptedServer(answer) as server:
        options = ("--judge.max_attempts", "1", "--max_failed_share", "1.0")
        with pytest.raises((LedgerError, ServerError)):
            run_claims(config_of(server.url, *options), [run], tmp_path / "claims")
        assert not (tmp_path / "claims" / "claims.jsonl").exists()


def test_media_are_no_setting(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="media"):
        config_of("http://localhost:1/v1", "--judge.media", "frames")


def test_the_command_with_the_demo_judge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", [SEES, HEARS, NEITHER], "V")
    port = free_port()
    with demo_server(port):
        settings = ["--judge.model", JUDGE_MODEL, "--judge.base_urls", json.dumps([server_url(port)])]
        words = ["claims", "--config", "cli_configs/claims.yaml", "--judge.preset", "null", *settings]
        assert main([*words, "--run", run, "--out", str(tmp_path / "claims")]) == 0
    assert "33.3 (not given)" in capsys.readouterr().out
    lines = read_claims(tmp_path / "claims" / "claims.jsonl")
    assert [(line.seen, line.heard) for line in lines] == [(["see red"], []), ([], ["hear hum"]), ([], [])]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "claims.jsonl").write_text('{"id": 3}\n')
    with pytest.raises(ValueError, match=r"claims\.jsonl: line 1"):
        read_claims(tmp_path / "claims.jsonl")
