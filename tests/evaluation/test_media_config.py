"""Frames and seconds of audio per benchmark, and items with several media."""

from __future__ import annotations

import wave
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from avrt.evaluation import item_clips
from avrt.evaluation.benchmarks import BENCHMARKS, Item
from avrt.evaluation.benchmarks.base import MediaPaths
from avrt.evaluation.item_clips import MAX_FRAMES, read_sample
from avrt.evaluation.media_config import ClipSettings, MediaConfig
from avrt.evaluation.question_sets import QuestionsConfig, open_question_sets
from avrt.media.defaults import MAX_CLIP_PIXELS, MAX_FRAME_PIXELS, MIN_FRAME_PIXELS
from avrt.media.errors import MediaError
from avrt.sample import SAMPLING_RATE, Sample
from datamodules.benchmark import BenchmarkDataModule

LONG = {"dailyomni": ClipSettings(num_frames=12, frames_per_second=0.2, max_audio_seconds=20.0)}


def item(media: MediaPaths) -> Item:
    return Item(Sample("q", "Which?", ("a", "b"), 0), 0, media)


def write_audio(path: Path, seconds: float, level: int) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLING_RATE)
        file.writeframes(int(level).to_bytes(2, "little", signed=True) * int(seconds * SAMPLING_RATE))


def test_one_benchmark_has_settings_of_its_own(real_data: Path) -> None:
    media = MediaConfig(num_frames=3, max_audio_seconds=2.0, per_benchmark=LONG)
    assert media.of("dailyomni") == MediaConfig(num_frames=12, max_audio_seconds=20.0, frames_per_second=0.2)
    assert media.of("mmau") == MediaConfig(num_frames=3, max_audio_seconds=2.0)
    questions = open_question_sets(QuestionsConfig("dailyomni", data_root=str(real_data / "benchmarks")))[0]
    shown = questions.show(questions.items[0], media)
    assert isinstance(shown, Sample)
    assert shown.clip is not None
    assert shown.clip.frames is not None
    assert shown.clip.waveform is not None
    assert shown.clip.waveform.shape == (20 * SAMPLING_RATE,)
    # 0.2 frames per second of a video of half a minute or a whole one: 6 or 12.
    assert len(shown.clip.frames) == round(0.2 * shown.clip.duration) in range(5, 13)
    assert shown.clip.fps == pytest.approx(len(shown.clip.frames) / shown.clip.duration)
    few = questions.show(questions.items[0], MediaConfig(num_frames=2, frames_per_second=0.2))
    assert isinstance(few, Sample)
    assert few.clip is not None
    assert few.clip.frames is not None
    assert len(few.clip.frames) == 2  # the maximum
    info = questions.run_info(run="r", model="m", answer_format="tags", media=media)
    assert {name: info.decoding[name] for name in ("num_frames", "frames_per_second", "max_audio_seconds")} == {
        "num_frames": 12,
        "frames_per_second": 0.2,
        "max_audio_seconds": 20.0,
    }
    assert (
        "frames_per_second"
        not in questions.run_info(run="r", model="m", answer_format="tags", media=MediaConfig()).decoding
    )


def test_settings_that_cannot_work_are_named() -> None:
    for settings, message in (
        ({"num_frames": 0}, "`num_frames` must be 1 to"),
        ({"num_frames": MAX_FRAMES + 1}, "`num_frames` must be 1 to"),
        ({"frames_per_second": 0.0}, "`frames_per_second` must be above 0"),
        (
            {"per_benchmark": {"mmau": ClipSettings(max_audio_seconds=-1.0)}},
            "`per_benchmark.mmau`: `max_audio_seconds`",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            MediaConfig(**settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"`per_benchmark`: must name benchmarks .* got 'mmaus'"):
        MediaConfig(per_benchmark={"mmaus": ClipSettings()}).check_names(BENCHMARKS)


def test_the_pixels_of_a_clip_are_bounded_for_any_number_of_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def read(**settings: Any) -> Any:
        asked.append(settings)
        return SimpleNamespace(waveform=None)

    monkeypatch.setattr(item_clips, "read_isolated", read)
    monkeypatch.setattr(item_clips, "replace", lambda sample, **clips: sample)
    for frames in (8, 445, 446, MAX_FRAMES):
        read_sample(item({"video": "a.mp4"}), "data", num_frames=frames)
    assert [call["max_pixels"] for call in asked[:2]] == [MAX_FRAME_PIXELS] * 2
    assert all(call["num_frames"] * call["max_pixels"] <= MAX_CLIP_PIXELS for call in asked)
    assert asked[-1]["max_pixels"] >= MIN_FRAME_PIXELS


def test_the_data_module_takes_them_from_a_config(real_data: Path) -> None:
    data = BenchmarkDataModule("dailyomni", str(real_data / "benchmarks"), frames_per_second=1.0, per_benchmark=LONG)
    data.setup("test")
    assert data.media.of("dailyomni").num_frames == 12
    with pytest.raises(ValueError, match="`per_benchmark`"):
        BenchmarkDataModule("dailyomni", str(real_data / "benchmarks"), per_benchmark={"daily": ClipSettings()}).setup(
            "test"
        )


def test_several_files_keep_the_settings_of_one(tmp_path: Path) -> None:
    for number, color in enumerate(("red", "lime"), 1):
        Image.new("RGB", (60, 40), color).save(tmp_path / f"{number}.png")
    for number, level in ((1, 8192), (2, -8192)):
        write_audio(tmp_path / f"{number}.wav", 2.0, level)
    media: MediaPaths = {"audio": ("1.wav", "2.wav"), "image": ("1.png", "2.png")}
    red, lime, high, low = read_sample(item(media), tmp_path, max_audio_seconds=1.5).clips
    for clip, color in ((red, [255, 0, 0]), (lime, [0, 255, 0])):
        assert clip.frames is not None
        assert clip.is_image
        assert clip.waveform is None
        assert clip.frames.shape == (1, 3, 40, 60)
        assert clip.frames[0, :, 20, 30].tolist() == color
    for clip, level in ((high, 0.25), (low, -0.25)):
        assert clip.waveform is not None
        assert clip.waveform.shape == (1.5 * SAMPLING_RATE,)
        assert clip.waveform.mean() == pytest.approx(level, abs=1e-3)


def test_more_files_than_an_item_may_have_are_not_read(tmp_path: Path) -> None:
    """A run that somebody else wrote names them; the page reads its clips."""
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    with pytest.raises(MediaError, match="more than 32 files"):
        read_sample(item({"image": ("a.png",) * 33}), tmp_path)


def test_the_question_s_audio_replaces_that_of_the_video(real_data: Path, tmp_path: Path) -> None:
    source = next((real_data / "avqa" / "videos").glob("*.mp4"))
    (tmp_path / "a.mp4").symlink_to(source)
    write_audio(tmp_path / "a.wav", 1.0, 0)
    video, audio = read_sample(item({"video": "a.mp4", "audio": ("a.wav",)}), tmp_path).clips
    assert video.frames is not None
    assert video.waveform is None  # what is heard in it may be the answer
    assert audio.waveform is not None
    assert torch.equal(audio.waveform, torch.zeros(SAMPLING_RATE))
    (with_own,) = read_sample(item({"video": "a.mp4", "audio": "a.wav"}), tmp_path).clips
    assert with_own.waveform is not None
    assert with_own.waveform.abs().max() > 0  # audio beside a video is only used if the video has none
