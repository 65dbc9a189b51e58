"""Evaluation against a real HTTP server: the media and text it gets, retries, refusals, resuming."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from avrt.cli import main
from avrt.evaluation.media_config import MediaConfig
from avrt.evaluation.records.log import read_records
from avrt.evaluation.records.run_info import RunInfo
from avrt.evaluation.server_config import load_server_config
from avrt.sample import SAMPLING_RATE
from avrt.servers.clip_content import media_parts
from tests.servers.scripted_server import Reply, ScriptedServer
from tests.tiny_student import random_clip

Answer = Callable[[dict[str, Any], int], tuple[int, dict[str, Any]]]
CONFIG = Path(__file__).resolve().parents[2] / "cli_configs" / "eval_server.yaml"


def choice(text: str | None, finish: str = "stop", **message: Any) -> tuple[int, dict[str, Any]]:
    return 200, {
        "choices": [{"message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}],
        "usage": {"prompt_tokens": 900, "completion_tokens": 7},
    }


class ModelServer:
    """An OpenAI-compatible server with one model; keeps the requests."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.requests: list[dict[str, Any]] = []
        self.lock = threading.Lock()

    @contextmanager
    def running(self) -> Iterator[str]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.send(200, {"object": "list", "data": [{"id": "baseline", "object": "model"}]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with outer.lock:
                    outer.requests.append(body)
                    before = sum(question(old) == question(body) for old in outer.requests) - 1
                self.send(*outer.answer(body, before))

            def send(self, status: int, content: dict[str, Any]) -> None:
                data = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def parts(body: dict[str, Any], kind: str) -> list[Any]:
    (message,) = body["messages"]
    return [part[kind] for part in message["content"] if part["type"] == kind]


def question(body: dict[str, Any]) -> str:
    return parts(body, "text")[0].splitlines()[0]


def evaluate(url: str, run: Path, data: Path, *settings: str) -> int:
    values = {
        "output_dir": run,
        "server.base_urls": f"[{url}]",
        "server.model": "baseline",  # over the preset's
        "server.max_attempts": 3,
        "server.backoff_seconds": 0.01,
        "questions.data_root": data,
        "media.num_frames": 4,
        "media.max_audio_seconds": 2.5,
    }
    words = [f"--{key}={value}" for key, value in values.items()] + [f"--{setting}" for setting in settings]
    return main(["evaluate-server", "--config", str(CONFIG), *words])


def test_real_items_go_to_a_server_and_come_back_as_records(real_data: Path, tmp_path: Path) -> None:
    """Every outcome of a call, with the media and text as they arrive."""
    rows = json.loads((real_data / "benchmarks" / "dailyomni" / "qa.json").read_text())

    def answer(body: dict[str, Any], before: int) -> tuple[int, dict[str, Any]]:
        text = question(body)
        if text == rows[0]["Question"]:
            return choice(rows[0]["Answer"])
        if text == rows[1]["Question"]:  # fails twice, then thinks and answers
            if before < 2:
                return 500, {"error": {"message": "out of luck"}}
            return choice(f"Answer: {rows[1]['Answer']}", reasoning_content="Not C.")
        if text == rows[2]["Question"]:
            return 400, {"error": {"message": "the request is too long"}}
        if text == rows[3]["Question"]:
            return choice(None, "length", reasoning_content=f"Answer: {rows[3]['Answer']}")
        return choice("none of them")

    server = ModelServer(answer)
    with server.running() as url:
        assert evaluate(url, tmp_path / "run", real_data / "benchmarks") == 0
    records = read_records(tmp_path / "run" / "dailyomni")
    gold = rows[1]["Answer"]
    assert [(r.text, r.finish_reason, r.failure, r.correct_strict, r.reason) for r in records] == [
        (rows[0]["Answer"], "stop", None, True, "ok"),
        (f"<think>Not C.</think>Answer: {gold}", "stop", None, True, "ok"),
        ("", "missing", "server_refused", False, "server_refused"),
        (f"<think>Answer: {rows[3]['Answer']}", "length", None, False, "truncated"),
    ]
    assert records[2].failure_detail == "HTTP 400: Error code: 400 - the request is too long"
    assert (records[0].prompt_tokens, records[0].completion_tokens) == (900, 7)
    metrics = json.loads((tmp_path / "run" / "dailyomni" / "metrics.json").read_text())
    assert (metrics["strict"]["correct"], metrics["strict"]["items"]) == (2, 4)
    assert metrics["errors"]["no_reply"] == 1
    info = RunInfo.read(tmp_path / "run" / "dailyomni")
    assert (info.model, info.answer_format, info.profile) == ("baseline", "letter", "robust")
    assert info.decoding["max_tokens"] == 4096
    assert info.decoding["num_frames"] == 4

    seen = next(body for body in server.requests if question(body) == rows[0]["Question"])
    assert [part["type"] for part in seen["messages"][0]["content"]] == [*["image_url"] * 4, "input_audio", "text"]
    assert (seen["model"], seen["temperature"]) == ("baseline", 0.0)
    text = parts(seen, "text")[0].splitlines()
    assert text[1:5] == rows[0]["Choice"]
    assert text[5] == "Reply with the letter of the right option only (A, B, C or D)."
    (audio,) = parts(seen, "input_audio")
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(audio["data"])))
    assert (audio["format"], rate, samples.shape) == ("wav", SAMPLING_RATE, (40_000,))
    audio_only = next(body for body in server.requests if len(parts(body, "image_url")) == 0)
    assert len(parts(audio_only, "input_audio")) == 1  # MMAU has no frames

    # The refused item is called again, the others are not; better answers change the numbers.
    server.requests.clear()
    server.answer = lambda body, before: choice(rows[2]["Answer"])
    with server.running() as url:
        assert evaluate(url, tmp_path / "run", real_data / "benchmarks") == 0
    assert [question(body) for body in server.requests] == [rows[2]["Question"]]
    metrics = json.loads((tmp_path / "run" / "dailyomni" / "metrics.json").read_text())
    assert metrics["strict"]["correct"] == 3


def test_what_is_sent_is_the_clip() -> None:
    clip = random_clip("audio_video", seed=3, frames=2, seconds=2.0, audio_seconds=0.5)
    smooth = torch.linspace(0, 255, 80).to(torch.uint8).expand(2, 3, 60, 80)  # JPEG keeps a gradient, not noise
    *images, audio = media_parts(clip.__class__(smooth, (0.5, 1.5), 1.0, clip.waveform, 2.0, 80, 60), "AV", 95)
    for part in images:
        data = base64.b64decode(part["image_url"]["url"].removeprefix("data:image/jpeg;base64,"))
        image = np.asarray(Image.open(io.BytesIO(data), formats=["JPEG"])).astype(int)
        assert np.abs(image.transpose(2, 0, 1) - smooth[0].numpy()).max() <= 4
    samples, _ = soundfile.read(io.BytesIO(base64.b64decode(audio["input_audio"]["data"])), dtype="float32")
    assert clip.waveform is not None
    assert np.abs(samples - clip.waveform.numpy()).max() <= 2**-15
    assert [p["type"] for p in media_parts(clip, "A", 95)] == ["input_audio"]
    assert [p["type"] for p in media_parts(clip, "V", 95)] == ["image_url", "image_url"]


def test_a_model_without_audio_input_has_no_reply_to_an_audio_benchmark(real_data: Path, tmp_path: Path) -> None:
    server = ModelServer(lambda body, before: choice("A"))
    with server.running() as url:
        assert evaluate(url, tmp_path / "run", real_data / "benchmarks", "questions.benchmarks=mmau", "inputs=V") == 0
    (record,) = read_records(tmp_path / "run" / "mmau")
    assert (record.failure, record.correct_strict, server.requests) == ("no_input", False, [])


def test_a_dead_server_stops_the_run_and_loses_nothing(
    real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = ModelServer(lambda body, before: choice("A"))
    with server.running() as url:
        pass
    short = "server.server_wait_seconds=0.5"
    one = "questions.benchmarks=mmau"
    assert evaluate(url, tmp_path / "run", real_data / "benchmarks", one, short) == 1
    assert "server.base_urls: none of the 1 servers answered" in capsys.readouterr().err
    with server.running() as url:
        assert evaluate(url, tmp_path / "run", real_data / "benchmarks", one) == 0
    assert [record.text for record in read_records(tmp_path / "run" / "mmau")] == ["A"]


def test_another_model_behind_the_address_is_noticed(
    real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ModelServer(lambda body, before: choice("A")).running() as url:
        assert evaluate(url, tmp_path / "run", real_data / "benchmarks", "server.model=other") == 1
    assert "server.model: server 0 offers 'baseline', not 'other'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ("template.letter_instruction=Answer in French.", "prompt.letter_instruction"),
        ("template.option_line='{letter}) {text}'", "prompt.option_line"),
        ("answer_format=tags", "answer_format"),
        ("media.num_frames=3", "decoding.num_frames"),
        ("media.max_audio_seconds=1", "decoding.max_audio_seconds"),
        ("inputs=V", "decoding.inputs"),
        ("jpeg_quality=50", "decoding.jpeg_quality"),
        ("server.sampling.temperature=0.5", "decoding.temperature"),
        ("server.revision=r2", "weights"),
    ],
)
def test_another_prompt_in_the_same_folder_is_refused(
    setting: str, name: str, real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Items without a reply would get the new one, and the others keep the old one."""
    server = ModelServer(lambda body, before: choice("A"))
    with server.running() as url:
        one, folder = "questions.benchmarks=mmau", real_data / "benchmarks"
        assert evaluate(url, tmp_path / "run", folder, one) == 0
        # What is not sent may change: the system message, and the instruction for another format.
        assert evaluate(url, tmp_path / "run", folder, one, "template.system=x", "template.tags_instruction=y") == 0
        capsys.readouterr()
        assert evaluate(url, tmp_path / "run", folder, one, setting) == 1
    error = capsys.readouterr().err
    assert f"`{name}` " in error
    assert "another run folder" in error
    assert len(server.requests) == 1


def test_a_folder_of_a_version_that_kept_no_prompt_is_not_resumed(
    real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = ModelServer(lambda body, before: choice("A"))
    one, folder = "questions.benchmarks=mmau", real_data / "benchmarks"
    with server.running() as url:
        assert evaluate(url, tmp_path / "run", folder, one) == 0
        path = tmp_path / "run" / "mmau" / "run.json"
        old = json.loads(path.read_text())
        del old["prompt"]
        path.write_text(json.dumps(old))
        assert evaluate(url, tmp_path / "run", folder, one) == 1
    error = capsys.readouterr().err
    assert "run.json has no `prompt`" in error
    assert "another run folder" in error
    assert main(["score", str(tmp_path / "run")]) == 0


def test_the_harness_files_have_the_prompt_that_was_sent(real_data: Path, tmp_path: Path) -> None:
    server = ModelServer(lambda body, before: choice("A"))
    with server.running() as url:
        words = ("questions.benchmarks=mmau", "template.letter_instruction=Only the letter, please.")
        assert evaluate(url, tmp_path / "run", real_data / "benchmarks", *words) == 0
    (path,) = (tmp_path / "run" / "harness").glob("*/samples_*.jsonl")
    (sample,) = map(json.loads, path.read_text().splitlines())
    assert sample["arguments"]["gen_args_0"]["arg_0"] == parts(server.requests[0], "text")[0]


@pytest.mark.parametrize("status", [400, 404, 500])
def test_a_run_without_any_reply_fails_and_is_repeated(
    status: int, real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = ModelServer(lambda body, before: (status, {"error": {"message": "no such thing"}}))
    with server.running() as url:
        assert evaluate(url, tmp_path / "run", real_data / "benchmarks") == 1
        error = capsys.readouterr().err
        assert f"HTTP {status}" in error
        assert "no such thing" in error
        assert ("server.base_urls[0]" in error) == (status == 404)
        assert not list((tmp_path / "run").rglob("metrics.json"))
        server.answer = lambda body, before: choice("A")
        assert evaluate(url, tmp_path / "run", real_data / "benchmarks") == 0
    records = [record for path in (tmp_path / "run").glob("*/run.json") for record in read_records(path.parent)]
    assert not [record.id for record in records if record.failure in ("server_refused", "server_error")]


def test_a_base_url_without_v1_is_named(real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The case of the traces, for evaluation: this server answers nothing outside of /v1."""
    with ScriptedServer(lambda *_: Reply("A"), models=("baseline",), under="/v1/") as server:
        url = server.url.removesuffix("/v1")
        assert evaluate(url, tmp_path / "run", real_data / "benchmarks", "questions.benchmarks=mmau") == 1
        assert not server.seen
    assert "server.base_urls[0]: no chat completions at this address" in capsys.readouterr().err
    assert read_records(tmp_path / "run" / "mmau") == []


def test_a_second_run_on_the_folder_is_refused(
    real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """While the first one waits for its server; both finish afterwards."""
    arrived, go = threading.Event(), threading.Event()

    def answer(body: dict[str, Any], before: int) -> tuple[int, dict[str, Any]]:
        arrived.set()
        go.wait(60)
        return choice("A")

    server = ModelServer(answer)
    words = (tmp_path / "run", real_data / "benchmarks", "questions.benchmarks=mmau")
    with server.running() as url:
        first: list[int] = []
        thread = threading.Thread(target=lambda: first.append(evaluate(url, *words)))
        thread.start()
        try:
            assert arrived.wait(60)
            assert evaluate(url, *words) == 1
        finally:
            go.set()
            thread.join()
    assert f"{tmp_path / 'run'}: " in capsys.readouterr().err
    assert first == [0]
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("server.transport=file", "server.transport: unknown key"),
        ("server.prompt_file=README.md", "server.prompt_file: unknown key"),
        ("server.base_urls=[http://user:secret@host/v1]", "server.base_urls\\[0\\]: "),
        ("jpeg_quality=0", "jpeg_quality: must be 1 to 100"),
        ("server.preset=gemma-3-12b-it", "server.preset: 'gemma-3-12b-it' takes text only"),
        ("server.preset=none-such", "server.preset: 'none-such' is none of"),
        ("max_failed_share=0", "max_failed_share: must be above 0"),
        ("media.modalities=B", "media.modalities"),
        ("nonsense=1", "nonsense: unknown key"),
    ],
)
def test_wrong_settings_are_named(setting: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CONFIG.parents[1])
    with pytest.raises(ValueError, match=message) as caught:
        load_server_config([CONFIG], [f"--{setting}"])
    assert "secret" not in str(caught.value)


def test_the_shipped_config_parses() -> None:
    config = load_server_config([CONFIG])
    assert (config.media, config.questions.benchmarks) == (MediaConfig("AV", 8, 10.0), "all")
    assert (config.server.resolve_model().name, config.streams) == ("Qwen/Qwen3-Omni-30B-A3B-Instruct", "AV")
