"""Replies of real servers in an evaluation, and known models by their presets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from avrt.evaluation.records.log import read_records
from avrt.evaluation.records.run_info import RunInfo
from avrt.evaluation.sent_prompts import prompt_fingerprint
from avrt.evaluation.server_config import load_server_config
from avrt.servers.presets import PRESETS
from tests.evaluation.test_run_server import CONFIG, ModelServer, choice, evaluate, parts, question


@pytest.mark.parametrize(
    ("message", "finish", "text", "failure", "detail"),
    [
        ({"content": [{"type": "text", "text": "A"}]}, "eos_token", "A", None, None),
        ({"content": "A"}, None, "A", None, None),
        ({"content": None}, "stop", "", "reply_interrupted", "the reply has no text (content is null)"),
        ({"content": None, "refusal": "I won't."}, "stop", "I won't.", "reply_interrupted", "refusal: I won't."),
    ],
)
def test_other_servers_dialects(
    message: dict[str, Any],
    finish: str | None,
    text: str,
    failure: str | None,
    detail: str | None,
    real_data: Path,
    tmp_path: Path,
) -> None:
    server = ModelServer(lambda body, before: (200, {"choices": [{"message": message, "finish_reason": finish}]}))
    with server.running() as url:
        status = evaluate(url, tmp_path / "run", real_data / "benchmarks", "questions.benchmarks=mmau")
    (record,) = read_records(tmp_path / "run" / "mmau")
    assert (record.text, record.failure, record.failure_detail) == (text, failure, detail)
    assert status == (failure is not None)
    assert len(server.requests) == 1


def test_a_refusal_is_final_and_its_words_are_kept(real_data: Path, tmp_path: Path) -> None:
    """It is what the model says: the same command does not ask again. A server's failure is asked about again."""
    rows = json.loads((real_data / "benchmarks" / "dailyomni" / "qa.json").read_text())
    refused, filtered, failed = (row["Question"] for row in rows[:3])

    def answer(body: dict[str, Any], before: int) -> tuple[int, dict[str, Any]]:
        text = question(body)
        if text == refused:
            return choice(None, refusal="A rule forbids it.", reasoning_content="Hm.")
        if text == filtered:
            return choice("The dog", "content_filter")
        return (500, {"error": {"message": "down"}}) if text == failed else choice("A")

    server, one = ModelServer(answer), "questions.benchmarks=dailyomni"
    with server.running() as url:
        assert evaluate(url, tmp_path / "run", real_data / "benchmarks", one) == 0
        records = {record.question: record for record in read_records(tmp_path / "run" / "dailyomni")}
        assert (records[refused].text, records[refused].reason) == (
            "<think>Hm.</think>A rule forbids it.",
            "reply_interrupted",
        )
        assert records[filtered].text == "The dog"
        assert records[filtered].failure_detail == "finish_reason 'content_filter'"
        assert not records[refused].correct_strict
        server.requests.clear()
        server.answer = lambda body, before: choice("B")
        assert evaluate(url, tmp_path / "run", real_data / "benchmarks", one) == 0
    assert [question(body) for body in server.requests] == [failed]
    metrics = json.loads((tmp_path / "run" / "dailyomni" / "metrics.json").read_text())
    assert metrics["errors"]["no_reply"] == 2


def test_refusals_alone_are_asked_again(real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A setting may be the cause of all of them."""
    server, one = ModelServer(lambda body, before: choice(None, refusal="no")), "questions.benchmarks=mmau"
    with server.running() as url:
        assert evaluate(url, tmp_path / "run", real_data / "benchmarks", one) == 1
        assert "refusal: no" in capsys.readouterr().err
        server.answer = lambda body, before: choice("A")
        assert evaluate(url, tmp_path / "run", real_data / "benchmarks", one) == 0
    (record,) = read_records(tmp_path / "run" / "mmau")
    assert (record.text, record.failure) == ("A", None)


def test_a_preset_asks_a_known_model_as_it_must_be_asked(
    real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Audio Flamingo 3 gets audio only, and thinks only with its sentence."""
    preset = PRESETS["audio-flamingo-3-think"]
    server = ModelServer(lambda body, before: choice("A"))
    words = ("questions.benchmarks=dailyomni", "server.preset=audio-flamingo-3-think")
    with server.running() as url:
        assert evaluate(url, tmp_path / "run", real_data / "benchmarks", *words) == 0
        for body in server.requests:
            assert [part["type"] for part in body["messages"][0]["content"]] == ["input_audio", "text"]
            assert (body["temperature"], body["max_tokens"]) == (0.0, 2048)
            assert parts(body, "text")[0].splitlines()[-1] == preset.suffix
        info = RunInfo.read(tmp_path / "run" / "dailyomni")
        assert info.prompt is not None
        assert (info.prompt["suffix"], info.decoding["inputs"]) == (preset.suffix, "A")
        (path,) = (tmp_path / "run" / "harness").glob("*/samples_*.jsonl")
        shown = [row["arguments"]["gen_args_0"]["arg_0"] for row in map(json.loads, path.read_text().splitlines())]
        assert set(shown) == {parts(body, "text")[0] for body in server.requests}
        # Without the sentence it is another run.
        capsys.readouterr()
        rest = ("server.sampling.max_tokens=2048", "inputs=A")
        assert evaluate(url, tmp_path / "run", real_data / "benchmarks", words[0], *rest) == 1
    assert "`prompt.suffix`" in capsys.readouterr().err
    (results,) = (tmp_path / "run" / "harness").glob("*/results_*.json")
    metadata = json.loads(results.read_text())["configs"]["avrt_dailyomni"]["metadata"]
    assert metadata["prompt_fingerprint"] == prompt_fingerprint(info)


def test_a_preset_names_the_streams_that_its_model_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CONFIG.parents[1])
    assert load_server_config([CONFIG], ["--server.preset=kimi-vl-a3b-thinking-2506"]).streams == "V"
    assert load_server_config([CONFIG], ["--inputs=A"]).streams == "A"
    with pytest.raises(ValueError, match="inputs: the preset 'audio-flamingo-3-think' takes no images"):
        load_server_config([CONFIG], ["--server.preset=audio-flamingo-3-think", "--inputs=AV"])
