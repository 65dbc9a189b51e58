"""Items with several media files, on real clips: what a server gets, records, the report's clip, and limits."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from avrt.cli import main
from avrt.evaluation.benchmarks import BENCHMARKS, Benchmark, Entry
from avrt.evaluation.item_clips import join_clips
from avrt.evaluation.media_config import MediaConfig
from avrt.evaluation.question_sets import QuestionsConfig, open_question_sets
from avrt.evaluation.records.log import read_records
from avrt.sample import Sample
from tests.evaluation.test_run_server import ModelServer, choice, evaluate
from tests.tiny_student import random_clip

SAMPLE = Sample("pair", "Which of <video1> and <video2> fits <image1>?", ("the first", "the second"), 1)
MEDIA = {"video": ("one.mp4", "two.mp4"), "image": ("c.png",), "audio": "d.wav"}


def read(path: Path) -> list[Entry]:
    return [
        Entry(sample=SAMPLE, media=dict(MEDIA)),
        Entry(sample=replace(SAMPLE, id="lost"), media={"audio": ("d.wav", "e.wav")}),
    ]


@pytest.fixture
def data(real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "data" / "pairs"
    folder.mkdir(parents=True)
    (folder / "pairs.json").write_text("[]")
    rows = json.loads((real_data / "avqa" / "val_qa.json").read_text())
    for name, row in zip(("one.mp4", "two.mp4"), rows, strict=False):
        shutil.copy(real_data / "avqa" / "videos" / f"{row['video_name']}.mp4", folder / name)
    (sound,) = (real_data / "benchmarks" / "mmau" / "test-mini-audios").iterdir()
    shutil.copy(sound, folder / "d.wav")
    Image.new("RGB", (64, 48), (200, 0, 0)).save(folder / "c.png")
    own = Benchmark(name="pairs", title="Pairs", folders=("pairs",), annotation_files=("pairs.json",), read=read)
    monkeypatch.setitem(BENCHMARKS, "pairs", own)
    return tmp_path / "data"


def kinds(body: dict) -> list[str]:
    (message,) = body["messages"]
    short = {"image_url": "I", "input_audio": "A"}
    return [part["text"] if part["type"] == "text" else short[part["type"]] for part in message["content"]]


def test_a_server_gets_all_files_at_their_places(data: Path, tmp_path: Path) -> None:
    server = ModelServer(lambda body, before: choice("B"))
    with server.running() as url:
        assert evaluate(url, tmp_path / "run", data, "questions.benchmarks=pairs") == 0
        assert evaluate(url, tmp_path / "sound", data, "questions.benchmarks=pairs", "inputs=A") == 0
    both, sound = map(kinds, server.requests)
    options = "\nA. the first\nB. the second\nReply with the letter of the right option only (A or B)."
    video = ["I"] * 4 + ["A"]
    assert both == ["A", "Which of ", *video, " and ", *video, " fits ", "I", f"?{options}"]
    assert sound == ["A", "A", "A", f"{SAMPLE.question}{options}"]

    answered, lost = read_records(tmp_path / "run" / "pairs")
    assert (answered.media, answered.correct_strict) == ({**MEDIA, "image": ("c.png",)}, True)
    assert (lost.failure, lost.failure_detail) == ("missing_media", "not found: e.wav")
    assert main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "page")]) == 0
    (clip,) = (json.loads(path.read_text())["shown"] for path in (tmp_path / "page").glob("media/*/clip.json"))
    assert len(clip["frames"]) == 9
    assert clip["audio_seconds"] == pytest.approx(3 * 2.5 + 2 * 0.5, abs=0.1)


def test_every_clip_is_masked(data: Path) -> None:
    (questions,) = open_question_sets(QuestionsConfig("pairs", str(data)))
    for mask in ("A", "V"):
        shown = questions.show(questions.items[0], MediaConfig(mask, num_frames=2, max_audio_seconds=1.0))
        assert isinstance(shown, Sample)
        assert len(shown.clips) == 4
        assert any(clip.frames is not None and clip.frames.any() for clip in shown.clips) == (mask == "V")
        assert any(clip.waveform is not None and clip.waveform.any() for clip in shown.clips) == (mask == "A")


def test_too_many_files_are_refused(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = [Entry(sample=SAMPLE, media={"image": ("c.png",) * 33})]
    monkeypatch.setitem(BENCHMARKS, "pairs", replace(BENCHMARKS["pairs"], read=lambda path: many))
    with pytest.raises(ValueError, match="'pair' has 33 media files; at most 32 are read"):
        open_question_sets(QuestionsConfig("pairs", str(data)))


def test_clips_of_other_sizes_are_joined_to_look_at() -> None:
    wide, tall, sound = random_clip("image", 1), random_clip("image", 2, height=100, width=20), random_clip("audio", 3)
    joined = join_clips([wide, tall, sound, sound])
    assert joined.frames is not None
    assert joined.waveform is not None
    assert joined.frames.shape == (2, 3, 100, 80)
    assert wide.frames is not None
    assert tall.frames is not None
    assert torch.equal(joined.frames[0, :, 20:80], wide.frames[0])
    assert torch.equal(joined.frames[1, :, :, 30:50], tall.frames[0])
    assert joined.waveform.shape == (16_000 + 8_000 + 16_000,)
    assert join_clips([wide]) is wide
