"""Building the demo's folder: complete, atomic, resumable."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from avrt.demo.build import DemoFiles, build_demo_clips
from avrt.demo.questions import plan_clips, plan_questions

SMALL = {"train_clips": 64, "val_clips": 64, "questions_per_clip": 2}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_folder_holds_what_was_planned_and_nothing_else(demo_files: DemoFiles) -> None:
    questions = [plan_questions(plan_clips(split, 64, 0), 2) for split in ("train", "val")]
    for path, planned in zip((demo_files.train_annotations, demo_files.val_annotations), questions, strict=True):
        assert json.loads(path.read_text(encoding="utf-8")) == [question.annotation() for question in planned]
    assert {path.name for path in demo_files.videos.iterdir()} == {
        f"{question.clip.name}.mp4" for split in questions for question in split
    }
    assert {path.name for path in demo_files.videos.parent.iterdir()} == {
        "videos",
        "train_qa.json",
        "val_qa.json",
        "clips.json",
    }


def test_no_two_clips_are_the_same_file(demo_files: DemoFiles) -> None:
    clips = [path.read_bytes() for path in demo_files.videos.iterdir()]
    assert len(set(clips)) == len(clips) == 128


def test_a_killed_build_leaves_only_whole_clips_and_resumes(demo_files: DemoFiles, tmp_path: Path) -> None:
    out_dir = tmp_path / "demo"
    code = f"from avrt.demo.build import build_demo_clips; build_demo_clips({str(out_dir)!r}, **{SMALL!r}, workers=2)"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    videos = out_dir / "videos"
    while process.poll() is None and len(list(videos.glob("*.mp4"))) < 10:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the build ended before it could be killed"

    complete = contents(demo_files.videos)
    survivors = {name: data for name, data in contents(videos).items() if name.endswith(".mp4")}
    assert 10 <= len(survivors) < len(complete)
    assert survivors.items() <= complete.items()

    written = {name: (videos / name).stat().st_mtime_ns for name in survivors}
    build_demo_clips(out_dir, **SMALL, workers=1)
    assert contents(videos) == complete
    assert {name: (videos / name).stat().st_mtime_ns for name in written} == written


def test_clips_of_another_seed_or_origin_are_never_mixed_in(demo_files: DemoFiles, tmp_path: Path) -> None:
    out_dir = demo_files.videos.parent
    before = contents(out_dir)
    with pytest.raises(ValueError, match=r"'seed': 0.*'seed': 1.*choose another folder"):
        build_demo_clips(out_dir, **SMALL, seed=1)
    assert contents(out_dir) == before

    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "holiday.mp4").touch()
    with pytest.raises(ValueError, match="unknown origin"):
        build_demo_clips(tmp_path, **SMALL)


def test_bad_numbers_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    for bad, named in ({"train_clips": 65}, "train_clips"), ({"seed": -1}, "seed"), ({"workers": 0}, "workers"):
        with pytest.raises(ValueError, match=f"`{named}`"):
            build_demo_clips(tmp_path / "demo", **{**SMALL, **bad})
        assert not (tmp_path / "demo").exists()
