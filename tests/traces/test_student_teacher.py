"""A student as the teacher: it gets the prompt of its training, and its right replies become traces."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from avrt.data.records import decode_clip
from avrt.data.shards import ShardSet
from avrt.data.writer import ShardWriter
from avrt.demo.served_student import ServedStudent
from avrt.demo.servers import HOST, STUDENT_MODEL, make_server
from avrt.model.encoding import PromptEncoder
from avrt.servers.presets import PRESETS
from avrt.text.prompts import PromptTemplate
from avrt.traces.call_planner import CallPlanner
from avrt.traces.config import Inputs, TeacherConfig, TracesConfig
from avrt.traces.pipeline import run_traces
from tests.answering_student import REPLY, save_answering_student
from tests.servers.scripted_server import Reply, ScriptedServer
from tests.tiny_student import PIXELS, make_sample

COUNT = 6
"""Questions 1, 3 and 5 have the answer B."""

MEDIA = {"size": {"shortest_edge": PIXELS, "longest_edge": PIXELS}}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    with ShardWriter(folder, image_format="png") as writer:
        for number in range(COUNT):
            sample = make_sample("audio_video", number, frames=4 + number % 2 * 4)
            assert sample.clip is not None
            assert sample.clip.waveform is not None
            clip = replace(sample.clip, waveform=sample.clip.waveform.clamp(-1, 1))
            writer.write(replace(sample, clip=clip, trace=None))
    return folder


@pytest.fixture(scope="module")
def student(student_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ServedStudent:
    return ServedStudent(save_answering_student(student_folder, tmp_path_factory.mktemp("answering") / "student"))


@pytest.fixture(scope="module")
def url(student: ServedStudent) -> Iterator[str]:
    with make_server(0, student) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{HOST}:{server.server_address[1]}/v1"
        server.shutdown()


def make_config(shards: Path, root: Path, url: str, inputs: Inputs = "both", **teacher: Any) -> TracesConfig:
    sampling = {"temperature": 0.0, "max_tokens": 64, "mm_processor_kwargs": MEDIA}
    settings: dict[str, Any] = {"preset": "avrt-student", "sampling": sampling, **teacher}
    config = TracesConfig(
        str(shards),
        str(root / "ledger"),
        str(root / "out"),
        {"student": TeacherConfig([url], inputs=inputs, **settings)},
        variant="student_only",
        val_share=None,
    )
    config.check()
    return config


def test_right_replies_of_a_real_student_become_traces(shards: Path, url: str, tmp_path: Path) -> None:
    config = make_config(shards, tmp_path, url)
    statistics = run_traces(config)
    assert statistics is not None
    assert statistics["yield"] == {"kept": COUNT // 2, "student_wrong": COUNT // 2}
    for sample in ShardSet(tmp_path / "out" / "train"):
        assert sample.gold == "B"
        assert sample.trace == REPLY
        assert sample.teacher_traces == {"student": REPLY}


@pytest.mark.parametrize("inputs", ["both", "frames", "audio"])
def test_the_prompt_that_arrives_is_that_of_training(
    inputs: Inputs, shards: Path, student: ServedStudent, tmp_path: Path
) -> None:
    template = PromptTemplate(system="Look and listen.", option_line="{letter}) {text}")
    with ScriptedServer(lambda *_: Reply(REPLY), models=(STUDENT_MODEL,)) as server:
        run_traces(make_config(shards, tmp_path, server.url, inputs, template=template), steps=["student"])
    encoder = PromptEncoder(student.student.processor, template, "tags", PIXELS, PIXELS)
    packed = ShardSet(shards)
    trained = []
    for index in range(COUNT):
        clip = decode_clip(packed.media(index))
        if inputs == "frames":
            clip = replace(clip, waveform=None)
        elif inputs == "audio":
            clip = replace(clip, frames=None, fps=None)
        trained.append(encoder.encode(replace(packed.metadata(index), clip=clip)))
    arrived = student.student.embed([student.encode(body) for body in server.bodies])
    assert len(arrived) == COUNT
    for one in student.student.embed(trained):
        assert any(
            torch.equal(one.input_ids, other.input_ids)
            and torch.equal(one.position_ids, other.position_ids)
            and torch.allclose(one.media_features, other.media_features, atol=1e-6)
            for other in arrived
        )


def test_what_is_sent_decides_the_key(shards: Path, tmp_path: Path) -> None:
    def key(**teacher: Any) -> str:
        config = make_config(shards, tmp_path, "http://localhost:8000/v1", **teacher)
        call = CallPlanner(config, ShardSet(shards)).teacher_call("student", 1)
        assert call is not None
        return call.key

    other = PromptTemplate(system="Another system message.")
    keys = [key(), key(template=other), key(template=PromptTemplate(system="")), key(inputs="frames")]
    keys.append(key(preset=None, model="avrt-student"))
    assert len(set(keys)) == len(keys)
    assert key() == key(template=PromptTemplate()) == keys[0]


@pytest.mark.parametrize(
    ("teacher", "said"),
    [
        ({"prompt": "both"}, r"teachers.student.template: .* remove prompt and prompt_file"),
        ({"transport": "file", "media_dir": "m"}, r"teachers.student.transport: 'file' cannot send frames"),
    ],
)
def test_settings_that_a_student_cannot_have_are_refused(
    teacher: dict[str, Any], said: str, shards: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=said):
        make_config(shards, tmp_path, "http://localhost:8000/v1", **teacher)


def test_the_preset_has_the_frames_of_the_training_presets() -> None:
    import yaml

    sizes = PRESETS["avrt-student"].sampling["mm_processor_kwargs"]["size"]
    for name in ("sft_3b", "sft_7b", "grpo_3b", "grpo_7b"):
        preset = yaml.safe_load(Path(f"cli_configs/{name}.yaml").read_text(encoding="utf-8"))
        student = preset["model"]["init_args"]["student"]
        assert (student["min_pixels"], student["max_pixels"]) == (sizes["shortest_edge"], sizes["longest_edge"])
        assert "template" not in student
