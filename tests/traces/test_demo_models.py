"""The demo's models over real HTTP: each knows its own stream only, and the pipeline makes good traces of them."""

from __future__ import annotations

import io
import json
import signal
import socket
import subprocess
import sys
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from avrt.cli import main
from avrt.data.shards import ShardSet
from avrt.data.writer import ShardWriter
from avrt.demo.clips import COLORS, PITCHES
from avrt.demo.questions import demo_texts, plan_clips, plan_questions
from avrt.demo.servers import (
    AUDIO_MODEL,
    DEFAULT_PORT,
    HOST,
    MERGE_MODEL,
    MODELS,
    VISION_MODEL,
    BadRequestError,
    DemoModels,
    server_url,
)
from avrt.demo.trace_run import demo_server, traces_command
from avrt.media.reader import read_clip
from avrt.sample import Sample
from avrt.servers.local_server import free_port
from avrt.traces.config import load_config
from avrt.traces.stage_content import build_content


@pytest.fixture(scope="module")
def demo_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 64 clips of one block, with two questions each."""
    from avrt.demo.clips import render_clip

    folder = tmp_path_factory.mktemp("demo")
    clips = plan_clips("train", 64, seed=0)
    decoded = {}
    for clip in clips:
        buffer = io.BytesIO()
        render_clip(clip, buffer)
        (folder / f"{clip.name}.mp4").write_bytes(buffer.getvalue())
        decoded[clip.name] = read_clip(folder / f"{clip.name}.mp4")
    with ShardWriter(folder / "shards") as writer:
        for question in plan_questions(clips, 2):
            writer.write(
                Sample(
                    str(question.id),
                    question.text,
                    question.options,
                    question.answer,
                    source=question.clip.name,
                    clip=decoded[question.clip.name],
                )
            )
    return folder / "shards"


@pytest.fixture(scope="module")
def contents(demo_shards: Path) -> dict[str, list[list[dict[str, Any]]]]:
    from avrt.traces.prompts import fill_prompt, load_prompt

    shards = ShardSet(demo_shards)
    streams = {"vision": "V", "audio": "A"}
    names = {"vision": "frames", "audio": "audio"}
    built: dict[str, list[list[dict[str, Any]]]] = {"vision": [], "audio": []}
    for index in range(8):
        for stage in ("vision", "audio"):
            prompt = fill_prompt(load_prompt(stage, names[stage], None), shards.metadata(index), frames="8")
            built[stage].append(build_content(streams[stage], shards.media(index), prompt))
    return built


def test_the_filter_keeps_a_quarter_with_right_traces_in_the_demos_own_words(demo_shards: Path, tmp_path: Path) -> None:
    port = free_port()

    def traces(variant: str) -> dict[str, Any]:
        command = traces_command(demo_shards, tmp_path / "ledger", tmp_path / variant, port=port)
        assert main([*command, "--variant", variant]) == 0
        return json.loads((tmp_path / variant / "statistics.json").read_text(encoding="utf-8"))

    with demo_server(port):
        statistics = traces("merged")
        everything = traces("unfiltered")
    outcomes = statistics["outcomes"]
    assert set(outcomes["vision"]) == set(outcomes["audio"]) == {"right", "wrong"}
    # Teachers that perceive right and guess between two options are right half of the time, exactly, per quad.
    assert outcomes["vision"]["right"] == outcomes["audio"]["right"] == 64
    # Two independent halves: a quarter of 128, four standard deviations wide.
    assert 12 <= statistics["yield"]["kept"] <= 52
    assert everything["yield"] == {"kept": 128}
    assert everything["outcomes"]["merge"] == {"right": 128}
    words = {word for text in demo_texts(plan_questions(plan_clips("train", 64, 0), 2)) for word in text.split()}
    letters: Counter[str] = Counter()
    for name in ("merged", "unfiltered"):
        for sample in ShardSet(tmp_path / name / "train"):
            trace = sample.trace or ""
            assert f"<answer>{sample.gold}</answer>" in trace
            color, *_, pitch = sample.options[sample.answer].split()
            assert {color, pitch} <= set(trace.replace(".", " ").replace(",", " ").split())
            assert set(trace.split()) <= words, "the traces use words that the demo's tokenizer never saw"
            letters[sample.gold] += name == "merged"
    assert set(letters) == set("ABCD"), "the filter left some letters out"


def test_a_teacher_names_what_it_perceives_and_nothing_of_the_other_stream(
    contents: dict[str, list[list[dict[str, Any]]]],
) -> None:
    models = DemoModels()
    for content in contents["vision"]:
        head = models.reply(VISION_MODEL, [{"role": "user", "content": content}]).splitlines()[0]
        assert sum(name in head.rstrip(".").split() for name in COLORS) == 1
        assert not any(name in head.rstrip(".").split() for name in PITCHES)
    for content in contents["audio"]:
        head = models.reply(AUDIO_MODEL, [{"role": "user", "content": content}]).splitlines()[0]
        assert sum(name in head.rstrip(".").split() for name in PITCHES) == 1


@pytest.mark.parametrize(
    ("model", "stage"), [(VISION_MODEL, "audio"), (AUDIO_MODEL, "vision"), (MERGE_MODEL, "vision")]
)
def test_a_model_refuses_the_other_stream(
    model: str, stage: str, contents: dict[str, list[list[dict[str, Any]]]]
) -> None:
    with pytest.raises(BadRequestError, match=f"{model} takes (images|audio|text) only"):
        DemoModels().reply(model, [{"role": "user", "content": contents[stage][0]}])


def test_the_server_prints_its_address_and_ends_quietly_when_interrupted() -> None:
    words = [sys.executable, "-m", "avrt", "demo", "--serve", "--port", "0"]
    with subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore Ctrl-C, and so would all that they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split(" at ")[1].split(";")[0]
        with urllib.request.urlopen(f"{url}/models") as reply:
            assert [model["id"] for model in json.load(reply)["data"]] == [*MODELS]
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")


def test_a_port_that_cannot_be_listened_on_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["demo", "--serve", "--port", str(port)]) == 1
    assert f"--port {port}: Address already in use; choose another one" in capsys.readouterr().err
    assert main(["demo", "--serve", "--port", "70000"]) == 1
    assert "--port must be 0 (any free one) to 65535, got 70000" in capsys.readouterr().err
    assert main(["demo", "--port", "8790"]) == 1
    assert "--port: needs --serve" in capsys.readouterr().err


def test_the_demos_trace_command_is_the_public_one() -> None:
    words = traces_command(Path("a/shards"), Path("a/ledger"), Path("a/traces"), port=1234)
    assert words[0] == "traces"
    assert words[1:3] == ["--config", str(Path(words[2]))]
    config = load_config([words[2]], words[3:])
    assert (config.shards, config.ledger, config.output) == ("a/shards", "a/ledger", "a/traces")
    assert {config.stage(stage).base_urls[0] for stage in config.stages} == {"http://127.0.0.1:1234/v1"}
    preset = load_config([words[2]])
    assert {preset.stage(stage).base_urls[0] for stage in preset.stages} == {server_url(DEFAULT_PORT)}
