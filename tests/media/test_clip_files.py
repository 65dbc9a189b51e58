"""Clips are found by the name that annotations give, with or without an extension."""

from __future__ import annotations

from pathlib import Path

import pytest

from avrt.media.clip_files import ClipFolder, without_extension
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
    assert ClipFolder(tmp_path).find(name) == tmp_path / file
    assert ClipFolder(tmp_path).path(name) == tmp_path / file


def test_the_named_file_goes_first(tmp_path: Path) -> None:
    for file in ("c1.mp4", "c1.mkv"):
        (tmp_path / file).write_bytes(b"x")
    assert ClipFolder(tmp_path).find("c1.mkv") == tmp_path / "c1.mkv"
    assert ClipFolder(tmp_path).find("c1") == tmp_path / "c1.mp4"


@pytest.mark.parametrize(("name", "tried"), [("c1", "c1.mp4"), ("c1.mkv", "c1.mkv"), ("c1.txt", "c1.txt.mp4")])
def test_a_missing_clip_names_the_path_that_was_tried(tmp_path: Path, name: str, tried: str) -> None:
    (tmp_path / "c1.txt").write_bytes(b"x")
    assert ClipFolder(tmp_path).find(name) is None
    with pytest.raises(MediaError) as caught:
        ClipFolder(tmp_path).path(name)
    assert caught.value.reason is MediaReason.MISSING_FILE
    assert str(tmp_path / tried) in caught.value.detail


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("train/images/x.jpg", "train/images/x.jpg"),
        ("images/x.jpg", "AVQA_R1/train/images/x.jpg"),
        ("x.jpg", "AVQA_R1/train/images/x.jpg"),
        ("clips/c1.webm", "data/clips/c1"),
        ("c1.MP4", "data/clips/c1.mp4"),
    ],
)
def test_the_longest_end_of_a_path_is_found(tmp_path: Path, file: str, name: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_bytes(b"x")
    assert ClipFolder(tmp_path).find(name) == tmp_path / file
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"x")
    found = ClipFolder(tmp_path).find(name)
    assert found == tmp_path / name or name == "data/clips/c1"


def test_a_missing_path_names_the_whole_and_the_shortest(tmp_path: Path) -> None:
    with pytest.raises(MediaError) as caught:
        ClipFolder(tmp_path).path("a/images/x.png")
    assert str(tmp_path / "a/images/x.png") in caught.value.detail
    assert str(tmp_path / "x.png") in caught.value.detail


def test_an_image_is_no_video_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "c1.mp4").write_bytes(b"x")
    assert ClipFolder(tmp_path).find("c1.jpg") is None


def test_names_without_extension() -> None:
    assert {without_extension(name) for name in ("c1", "c1.mp4", "c1.MKV")} == {"c1"}
    assert without_extension("a.b") == "a.b"
