"""A student behind a server answers as `avrt test` says: `evaluate-server` sends it the prompt of its training."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from avrt.cli import main
from avrt.data.writer import ShardWriter
from avrt.demo.served_student import ServedStudent
from avrt.demo.servers import HOST, make_server
from avrt.evaluation.question_sets import QuestionSet, open_question_sets
from avrt.evaluation.records.log import read_records
from avrt.evaluation.records.record import Record
from avrt.evaluation.records.run_info import RunInfo
from avrt.evaluation.server_config import load_server_config
from avrt.evaluation.server_request import Request, build_request
from avrt.text.prompts import PromptTemplate
from tests.lightning_modules.evaluations import evaluate
from tests.servers.scripted_server import Reply, ScriptedServer
from tests.tiny_student import PIXELS, make_sample, save_student

CONFIG = Path(__file__).resolve().parents[2] / "cli_configs" / "eval_server_student.yaml"
KINDS = ("audio_video", "video", "audio", "image_audio")
TOKENS = 12
SYSTEM = "Look and listen."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_student(tmp_path_factory.mktemp("weights") / "student")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"))


def write_clips(folder: Path) -> Path:
    """Clips of every kind, with frame rates that are not the server's default, and an odd number of frames."""
    with ShardWriter(folder, image_format="png") as writer:
        for number in range(8):
            sample = make_sample(KINDS[number % 4], number, frames=4 + number % 3)
            clip = sample.clip
            assert clip is not None
            if clip.waveform is not None:
                clip = replace(clip, waveform=clip.waveform.clamp(-1, 1))
            if clip.is_image:
                clip = replace(clip, timestamps=(0.0,))
            writer.write(replace(sample, clip=clip, trace=None))
    return folder


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with make_server(0, ServedStudent(folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{HOST}:{server.server_address[1]}/v1"
        server.shutdown()


def ask(url: str, run: Path, shards: Path, **settings: Any) -> int:
    """``avrt evaluate-server``; returns its status. Dots in keys are written as double underscores."""
    size = f"{{size: {{shortest_edge: {PIXELS}, longest_edge: {PIXELS}}}}}"
    values = {
        "output_dir": run,
        "server.base_urls": f"[{url}]",
        "server.sampling": f"{{temperature: 0.0, max_tokens: {TOKENS}, mm_processor_kwargs: {size}}}",
        "questions.benchmarks": "clips",
        "questions.shards": shards,
        "template.system": SYSTEM,
    } | {key.replace("__", "."): value for key, value in settings.items()}
    words = [word for key, value in values.items() for word in (f"--{key}", str(value))]
    return main(["evaluate-server", "--config", str(CONFIG), *words])


def replies(run: Path) -> dict[str, tuple[str, str | None]]:
    """Of every item: the text, and why there is none."""
    return {record.id: (record.text, record.failure) for record in read_records(run / "clips")}


def settings_of_test(shards: Path, modalities: str) -> dict[str, Any]:
    """The same of ``avrt test``, whose config is the demo's."""
    settings: dict[str, Any] = {
        "benchmarks": "clips",
        "shards": shards,
        "modalities": modalities,
        "model__init_args__student__min_pixels": PIXELS,
        "model__init_args__student__max_pixels": PIXELS,
        "model__init_args__student__template__system": SYSTEM,
        "model__init_args__max_completion_length": TOKENS,
    }
    default = ("option_line", "tags_instruction", "letter_instruction")
    return settings | {f"model__init_args__student__template__{key}": getattr(PromptTemplate, key) for key in default}


def check_replies(url: str, student: Path, shards: Path, modalities: str, runs: Path) -> None:
    """The student behind the server replies word for word as in ``avrt test``."""
    assert ask(url, runs / "served", shards, media__modalities=modalities) == 0
    assert evaluate(runs / "tested", student, **settings_of_test(shards, modalities)) == 0
    served, tested = replies(runs / "served"), replies(runs / "tested")
    assert len(served) == 8
    assert served == tested
    assert len({text for text, _ in served.values()}) > 1


@pytest.mark.parametrize("modalities", ["AV", "A", "V"])
def test_the_replies_are_those_of_test(modalities: str, folder: Path, shards: Path, url: str, tmp_path: Path) -> None:
    check_replies(url, folder, shards, modalities, tmp_path)


def test_what_is_sent(shards: Path, tmp_path: Path) -> None:
    with ScriptedServer(lambda *_: Reply("<answer>A</answer>"), models=("avrt-student",)) as server:
        assert ask(server.url, tmp_path / "run", shards) == 0
    kinds = set()
    for body in server.bodies:
        system, user = body["messages"]
        assert system == {"role": "system", "content": SYSTEM}
        types = tuple(part["type"] for part in user["content"])
        kinds.add(types)
        settings = body["mm_processor_kwargs"]
        assert settings["size"] == {"shortest_edge": PIXELS, "longest_edge": PIXELS}
        if "video_url" in types:
            assert settings["fps"] not in (None, 2.0)
            assert settings["do_sample_frames"] is False
        else:
            assert "fps" not in settings
    assert kinds == {
        ("video_url", "input_audio", "text"),
        ("video_url", "text"),
        ("input_audio", "text"),
        ("image_url", "input_audio", "text"),
    }
    info = RunInfo.read(tmp_path / "run" / "clips")
    assert info.decoding["frames"] == "video, png"
    assert info.prompt is not None
    assert info.prompt["system"] == SYSTEM


@pytest.mark.parametrize("factor", [1, 2])
def test_videos_of_different_rates_are_no_request(factor: int, shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The form has place for one rate: the item is left out with its reason, and the run says so."""
    words = [f"--questions.shards={shards}", "--questions.benchmarks=clips"]
    config = load_server_config([CONFIG], words)
    [questions] = open_question_sets(config.questions)
    sample = make_sample("video", 0, frames=4)
    assert sample.clip is not None
    assert sample.clip.fps is not None
    other = replace(sample.clip, fps=sample.clip.fps * factor)
    monkeypatch.setattr(QuestionSet, "show", lambda *_: replace(sample, other_clips=(other,)))
    asked = build_request(questions, questions.items[0], config, config.server.resolve_model())
    if factor == 1:
        assert isinstance(asked, Request)
        assert [part["type"] for part in asked.content] == ["video_url", "video_url", "text"]
        assert asked.sampling["mm_processor_kwargs"]["fps"] == sample.clip.fps
    else:
        assert isinstance(asked, Record)
        assert (asked.failure, asked.failure_detail) == (
            "frame_rates",
            "the item's videos have 2 frame rates, and a request has place for one",
        )
