"""The two single-stream teachers name every clip right from what a student is given of it."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from avrt.demo.build import DemoFiles
from avrt.demo.clips import PICTURES, SOUNDS
from avrt.demo.teachers import AudioTeacher, VisionTeacher


def read_frames(path: Path) -> torch.Tensor:
    """Eight uniformly spaced frames, uint8 [8, 3, H, W]."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    spaced = np.linspace(0, len(frames) - 1, 8).round().astype(int)
    return torch.from_numpy(np.stack([frames[i] for i in spaced])).permute(0, 3, 1, 2)


def read_sound(path: Path) -> torch.Tensor:
    """Mono float32 [S] at 16 kHz."""
    resampler = av.AudioResampler(format="flt", layout="mono", rate=16_000)
    with av.open(str(path)) as container:
        pieces = [piece for frame in container.decode(audio=0) for piece in resampler.resample(frame)]
    pieces += resampler.resample(None)
    return torch.from_numpy(np.concatenate([piece.to_ndarray()[0] for piece in pieces]))


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
        path = demo_files.videos / f"{name}.mp4"
        picture = VisionTeacher().describe(read_frames(path))
        sound = AudioTeacher().describe(read_sound(path), 16_000)
        named[name] = f"{picture} and {sound}"
    assert named == right


def test_teachers_measure_what_is_shown_and_what_sounds() -> None:
    times = torch.arange(16_000) / 16_000
    for name, rgb in PICTURES.items():
        frames = torch.full((8, 3, 56, 84), 128, dtype=torch.uint8)
        frames[:, :, 10:30, 40:60] = torch.tensor(rgb, dtype=torch.uint8)[:, None, None]
        assert VisionTeacher().describe(frames) == name
    for name, frequency in SOUNDS.items():
        assert AudioTeacher().describe(0.3 * torch.sin(2 * torch.pi * frequency * times), 16_000) == name


def test_a_masked_stream_has_no_name() -> None:
    assert VisionTeacher().describe(torch.zeros(8, 3, 28, 28, dtype=torch.uint8)) is None
    assert VisionTeacher().describe(torch.full((8, 3, 28, 28), 200, dtype=torch.uint8)) is None
    assert AudioTeacher().describe(torch.zeros(16_000), 16_000) is None
    assert AudioTeacher().describe(torch.zeros(0), 16_000) is None


def test_wrong_shapes_and_rates_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="`frames`"):
        VisionTeacher().describe(torch.zeros(8, 28, 28, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match="`waveform`"):
        AudioTeacher().describe(torch.zeros(2, 16_000), 16_000)
    with pytest.raises(ValueError, match="`sampling_rate`"):
        AudioTeacher().describe(torch.zeros(16_000), 8_000)
