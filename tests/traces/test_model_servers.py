"""The pipeline's calls against real model servers, started with `transformers serve`. Run with ``-m server``."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile
from PIL import Image
from transformers import AutoProcessor

from avrt.data.shards import ShardSet
from avrt.servers.outcome import Status
from avrt.traces.call_planner import CallPlanner
from avrt.traces.call_records import CallRecord
from avrt.traces.config import TracesConfig
from avrt.traces.ledger import LedgerIndex
from avrt.traces.pipeline import run_traces
from avrt.traces.sample_filter import filter_sample
from tests.servers.scripted_server import ScriptedServer
from tests.traces import model_servers
from tests.traces.question_set import answer, change_stage, kept, make_config, write_shards

pytestmark = [pytest.mark.server, pytest.mark.timeout(1800)]

COUNT = 4


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("questions") / "shards", COUNT)


def change_server(config: TracesConfig, name: str, url: str, folder: Path, max_tokens: int) -> TracesConfig:
    return change_stage(
        config,
        name,
        base_urls=[url],
        model=str(folder),
        revision="",
        sampling={"max_tokens": max_tokens, "temperature": 0.0},
        max_concurrency=2,
        request_timeout_seconds=300,
        server_wait_seconds=300,
    )


def records(config: TracesConfig, stage: str) -> Iterator[tuple[int, CallRecord]]:
    planner = CallPlanner(config, ShardSet(config.shards))
    ledger = LedgerIndex(config.ledger)
    for call in planner.calls(stage, ledger):
        record = ledger.get(call.key)
        assert record is not None, f"{call.sample.id} has no record"
        yield call.index, record


def test_a_real_language_model_merges(shards: Path, tmp_path: Path) -> None:
    folder = model_servers.save_language_model(tmp_path / "smollm2")
    with model_servers.serve(folder) as url, ScriptedServer(answer) as teachers:
        config = make_config(shards, tmp_path, teachers.url, variant="unfiltered", allow_missing=True)
        config = change_server(config, "merge", url, folder, max_tokens=96)
        run_traces(config, steps=["vision", "audio", "merge"])
    found = list(records(config, "merge"))
    assert len(found) == COUNT
    for _, record in found:
        assert record.status in (Status.OK, Status.LENGTH), record.error
        assert len(record.text.split()) > 10
        assert record.usage["prompt_tokens"] > 100
    print(*(record.text for _, record in found), sep="\n----\n")
    planner = CallPlanner(config, ShardSet(shards))
    for index, record in found:
        sample, replies = planner.teacher_replies(index, LedgerIndex(config.ledger))
        # Which of these replies make traces is the filter's business; each must be accounted for.
        decision = filter_sample(sample, replies, record, config)
        assert (decision.trace is None) == (decision.reason != "kept")
        print(decision.reason)


def test_frames_reach_a_real_vision_language_model(shards: Path, tmp_path: Path) -> None:
    """The server counts as many prompt tokens as the model's own processor makes of the same images and text."""
    folder = model_servers.save_vision_model(tmp_path / "vision")
    with model_servers.serve(folder) as url:
        config = make_config(shards, tmp_path, url)
        config = change_server(config, "vision", url, folder, max_tokens=4)
        run_traces(config, steps=["vision"])
    processor = AutoProcessor.from_pretrained(folder)
    source, planner = ShardSet(shards), CallPlanner(config, ShardSet(shards))
    for index, record in records(config, "vision"):
        assert record.status in (Status.OK, Status.LENGTH), record.error
        call = planner.teacher_call("vision", index)
        assert call is not None
        members = source.media(index).members
        images = [Image.open(io.BytesIO(members[name])) for name in sorted(members) if name.startswith("frame")]
        content = [*({"type": "image"} for _ in images), {"type": "text", "text": call.prompt}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        expected = processor(text=[text], images=images, return_tensors="pt")["input_ids"].shape[1]
        assert record.usage["prompt_tokens"] == expected
        assert len(images) == 2


def test_audio_reaches_a_real_audio_language_model(shards: Path, tmp_path: Path) -> None:
    """The server counts as many prompt tokens as the model's own processor makes of the same audio and text."""
    folder = model_servers.save_audio_model(tmp_path / "audio")
    with model_servers.serve(folder) as url:
        config = make_config(shards, tmp_path, url)
        config = change_server(config, "audio", url, folder, max_tokens=4)
        run_traces(config, steps=["audio"])
    processor = AutoProcessor.from_pretrained(folder)
    source, planner = ShardSet(shards), CallPlanner(config, ShardSet(shards))
    for index, record in records(config, "audio"):
        assert record.status in (Status.OK, Status.LENGTH), record.error
        call = planner.teacher_call("audio", index)
        assert call is not None
        samples, rate = soundfile.read(io.BytesIO(source.media(index).members["flac"]), dtype="float32")
        assert rate == 16_000
        content = [{"type": "audio"}, {"type": "text", "text": call.prompt}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        expected = processor(text=[text], audio=[samples], sampling_rate=rate, return_tensors="pt")["input_ids"].shape[
            1
        ]
        assert record.usage["prompt_tokens"] == expected


def test_the_question_set_has_something_to_merge() -> None:
    assert any(kept(index) for index in range(COUNT))
