"""Positions of a video's frames are their real times."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from avrt.families.registry import FAMILIES, family_of_path
from avrt.model.student import Student
from avrt.planning.shapes import load_config
from tests.tiny_student import load_student, make_sample


@pytest.fixture(scope="module")
def student(layout_folder: Path) -> Student:
    return load_student(layout_folder)


def test_positions_follow_the_frames_real_time(layout_folder: Path) -> None:
    """8 frames over 10 s: 0.8 fps, 4 pairs 2.5 s apart; at 25 positions a second 0, 62, 125 and 187 after the start."""
    side = math.isqrt(family_of_path(str(layout_folder)).frame_pixels_per_token(load_config(str(layout_folder))[0]))
    student = load_student(layout_folder, min_pixels=6 * side**2, max_pixels=6 * side**2)
    prompt = student.encoder.encode(make_sample("audio_video", height=2 * side, width=3 * side))
    assert prompt.second_per_grid == 2.5
    positions = student.position_ids(prompt)
    ids = prompt.input_ids
    video = (ids == student.thinker.config.video_token_id).nonzero().squeeze(1)
    assert len(video) == 4 * 6  # each pair of frames: 4 x 6 patches, merged two by two
    start = int(video[0])
    assert positions[:, start - 1].tolist() == [start - 1] * 3, "text in front counts by one in all three"
    temporal = positions[0, video] - start
    times = temporal_positions(student, 0, 2.5, 5, 7.5)
    assert temporal.tolist() == [t for t in times for _ in range(6)]
    assert (positions[1, video] - start).tolist() == [0, 0, 0, 1, 1, 1] * 4
    assert (positions[2, video] - start).tolist() == [0, 1, 2, 0, 1, 2] * 4
    # The following tokens continue after the largest position, in all three.
    after = int(video[-1]) + 1
    assert positions[:, after].tolist() == [start + times[-1] + 1] * 3


def temporal_positions(student: Student, *seconds: float) -> list[float]:
    """Of frames at some times; the first family counts whole positions only."""
    exact = [time * student.thinker.config.position_id_per_seconds for time in seconds]
    return [float(int(value)) for value in exact] if student.family is FAMILIES[0] else exact


@pytest.mark.parametrize(("seconds", "apart"), [(8.0, 2.0), (2.0, 0.5), (4.0, 1.0)])
def test_positions_at_other_rates(student: Student, seconds: float, apart: float) -> None:
    prompt = student.encoder.encode(make_sample("video", seconds=seconds))
    positions = student.position_ids(prompt)[0][prompt.input_ids == student.thinker.config.video_token_id]
    expected = temporal_positions(student, *(apart * pair for pair in range(4)))
    assert (positions[::2] - positions[0]).tolist() == expected
