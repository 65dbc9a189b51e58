"""The two single-stream teachers name every clip right from a student's input."""

from __future__ import annotations

import json

import pytest
import torch

from avrt.demo.build import DemoFiles
from avrt.demo.clips import COLORS, PITCHES
from avrt.demo.teachers import AudioTeacher, VisionTeacher
from avrt.media.reader import read_clip
from avrt.sample import SAMPLING_RATE


@pytest.mark.parametrize("split", ["train", "val"])
def test_both_teachers_are_right_on_every_clip(demo_files: DemoFiles, split: str) -> None:
    annotations = demo_files.train_annotations if split == "train" else demo_files.val_annotations
    right = {
        record["video_name"]: record["multi_choice"][record["answer"]]
        for record in json.loads(annotations.read_text(encoding="utf-8"))
    }
    assert len(right) == 64
    named = {}
    for name in right:
        clip = read_clip(demo_files.videos / f"{name}.mp4")
        assert clip.frames is not None
        assert clip.waveform is not None
        color = VisionTeacher().describe(clip.frames)
        pitch = AudioTeacher().describe(clip.waveform, SAMPLING_RATE)
        named[name] = f"{color} {pitch}"
    assert named == right


def test_teachers_measure_color_and_pitch() -> None:
    times = torch.arange(SAMPLING_RATE) / SAMPLING_RATE
    for name, rgb in COLORS.items():
        frames = torch.full((8, 3, 56, 84), 128, dtype=torch.uint8)
        frames[:, :, 10:30, 40:60] = torch.tensor(rgb, dtype=torch.uint8)[:, None, None]
        assert VisionTeacher().describe(frames) == name
    for name, frequency in PITCHES.items():
        assert AudioTeacher().describe(0.3 * torch.sin(2 * torch.pi * frequency * times), SAMPLING_RATE) == name


def test_a_masked_stream_has_no_name() -> None:
    assert VisionTeacher().describe(torch.zeros(8, 3, 28, 28, dtype=torch.uint8)) is None
    assert VisionTeacher().describe(torch.full((8, 3, 28, 28), 200, dtype=torch.uint8)) is None
    assert AudioTeacher().describe(torch.zeros(SAMPLING_RATE), SAMPLING_RATE) is None
    assert AudioTeacher().describe(torch.zeros(0), SAMPLING_RATE) is None


def test_wrong_shapes_and_rates_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="`frames`"):
        VisionTeacher().describe(torch.zeros(8, 28, 28, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match="`waveform`"):
        AudioTeacher().describe(torch.zeros(2, SAMPLING_RATE), SAMPLING_RATE)
    with pytest.raises(ValueError, match="`sampling_rate`"):
        AudioTeacher().describe(torch.zeros(SAMPLING_RATE), 5_000)
