"""The rendered files: real, reproducible, and varied only where the answer does not lie."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import av
import pytest

from avrt.demo.clips import AUDIO_RATE, COLORS, FRAME_RATE, PITCHES, SIZE, ClipContent, render_clip

CLIP = ClipContent("green", "bell", seed=3, split="train", index=5)


def rendered(content: ClipContent, folder: Path) -> Path:
    path = folder / "clip.mp4"
    with path.open("wb") as file:
        render_clip(content, file)
    return path


def packets(path: Path, kind: str) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(**{kind: 0})]


def test_a_clip_is_a_small_mp4_with_h264_and_aac(tmp_path: Path) -> None:
    with av.open(str(rendered(CLIP, tmp_path))) as container:
        (video,), (audio,) = container.streams.video, container.streams.audio
        assert (video.codec.name, video.width, video.height, video.average_rate) == ("h264", SIZE, SIZE, FRAME_RATE)
        assert (audio.codec.name, audio.rate, audio.channels) == ("aac", AUDIO_RATE, 1)
        seconds = float(video.duration * video.time_base)
        assert 1.0 <= seconds <= 1.2
        assert float(audio.duration * audio.time_base) == pytest.approx(seconds, abs=0.05)
        assert sum(1 for _ in container.decode(video=0)) == round(seconds * FRAME_RATE)


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    first = rendered(CLIP, tmp_path).read_bytes()
    assert rendered(CLIP, tmp_path).read_bytes() == first


@pytest.mark.parametrize("change", [{"seed": 4}, {"split": "val"}, {"index": 6}])
def test_seed_split_and_index_each_vary_both_streams(tmp_path: Path, change: dict) -> None:
    path = rendered(CLIP, tmp_path)
    video, audio = packets(path, "video"), packets(path, "audio")
    path = rendered(replace(CLIP, **change), tmp_path)
    assert packets(path, "video") != video
    assert packets(path, "audio") != audio


def test_each_class_lives_in_its_own_stream_only(tmp_path: Path) -> None:
    path = rendered(CLIP, tmp_path)
    video, audio = packets(path, "video"), packets(path, "audio")
    for pitch in PITCHES.keys() - {CLIP.pitch}:
        path = rendered(replace(CLIP, pitch=pitch), tmp_path)
        assert packets(path, "video") == video
        assert packets(path, "audio") != audio
    for color in COLORS.keys() - {CLIP.color}:
        path = rendered(replace(CLIP, color=color), tmp_path)
        assert packets(path, "video") != video
        assert packets(path, "audio") == audio


def test_the_file_name_does_not_tell_the_content() -> None:
    assert CLIP.name == replace(CLIP, color="red", pitch="hum").name


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"color": "mauve"}, "color"),
        ({"pitch": "moo"}, "pitch"),
        ({"split": "dev"}, "split"),
        ({"seed": -1}, "seed"),
    ],
)
def test_unknown_content_is_refused_by_name(change: dict, named: str) -> None:
    with pytest.raises(ValueError, match=f"`{named}`"):
        replace(CLIP, **change)
