"""Clips are found by the name that annotations give, with or without an extension."""

from __future__ import annotations

from pathlib import Path

import pytest

from avrt.media.clip_files import clip_file, find_clip, without_extension
from avrt.media.errors import MediaError, MediaReason


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("c1.mp4", "c1"),
        ("c1.mp4", "c1.mp4"),
        ("c1.MP4", "c1"),
        ("c1.mkv", "c1"),
        ("c1.webm", "c1.webm"),
        ("c1.MOV", "c1"),
        ("c1.MP4", "c1.mp4"),
        ("c1.mp4", "c1.MP4"),
        ("a.b.mp4", "a.b"),
        ("c1.mp4.mp4", "c1.mp4"),  # a clip that was named so
        ("-x 1.avi", "-x 1"),
        ("c1.mkv", "c1.mp4"),  # converted since
    ],
)
def test_found(tmp_path: Path, file: str, name: str) -> None:
    (tmp_path / file).write_bytes(b"x")
    assert find_clip(tmp_path, name) == tmp_path / file
    assert clip_file(tmp_path, name) == tmp_path / file


def test_the_named_file_goes_first(tmp_path: Path) -> None:
    for file in ("c1.mp4", "c1.mkv"):
        (tmp_path / file).write_bytes(b"x")
    assert find_clip(tmp_path, "c1.mkv") == tmp_path / "c1.mkv"
    assert find_clip(tmp_path, "c1") == tmp_path / "c1.mp4"


@pytest.mark.parametrize(("name", "tried"), [("c1", "c1.mp4"), ("c1.mkv", "c1.mkv"), ("c1.txt", "c1.txt.mp4")])
def test_a_missing_clip_names_the_path_that_was_tried(tmp_path: Path, name: str, tried: str) -> None:
    (tmp_path / "c1.txt").write_bytes(b"x")
    assert find_clip(tmp_path, name) is None
    with pytest.raises(MediaError) as caught:
        clip_file(tmp_path, name)
    assert caught.value.reason is MediaReason.MISSING_FILE
    assert str(tmp_path / tried) in caught.value.detail


def test_names_without_extension() -> None:
    assert {without_extension(name) for name in ("c1", "c1.mp4", "c1.MKV")} == {"c1"}
    assert without_extension("a.b") == "a.b"
