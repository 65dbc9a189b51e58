"""``demo:`` paths: built once by one of several processes, cached, completed after a kill, and replaced in configs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest
import yaml

from avrt.cli import main
from avrt.data.shards import ShardSet
from avrt.demo.paths import build_demo_paths, locate_demo_paths
from avrt.demo.prepare import DemoCache, cache_folder
from avrt.demo.settings import DemoSettings
from avrt.demo.student import write_shapes
from avrt.files.cache_root import CACHE_VARIABLE
from avrt.model.student import Student, StudentConfig
from tests.tiny_student import TINY

SMALL = DemoSettings(train_clips=64, val_clips=64, questions_per_clip=1, reading_steps=1)

BUILD = """
import sys
from avrt.demo.prepare import DemoCache
from avrt.demo.settings import DemoSettings
settings = DemoSettings(train_clips=64, val_clips=64, questions_per_clip=1, reading_steps=1)
print(DemoCache(settings).get(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> DemoCache:
    """A cache from which two processes needed training shards at once, after a first one was killed."""
    base = tmp_path_factory.mktemp("cache")
    environment = {**os.environ, CACHE_VARIABLE: str(base), "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}
    words = [sys.executable, "-c", BUILD, "shards/train"]
    folder = base / f"demo-{SMALL.version}"

    killed = subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL, start_new_session=True)
    while killed.poll() is None and len(list(folder.glob("clips/videos/*.mp4"))) < 10:
        time.sleep(0.005)
    os.killpg(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL, "the build ended before it could be killed"

    both = [
        subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert [stdout.splitlines()[-1] for stdout, _ in outputs] == [str(folder / "shards" / "train")] * 2
    # One of them rendered and packed; the other waited and reports it, unless everything was done when it started.
    assert sorted(stderr.count("python -m avrt pack") for _, stderr in outputs) == [0, 1]
    return DemoCache(SMALL, folder)


def test_the_shards_are_those_of_the_planned_questions(cache: DemoCache) -> None:
    shards = ShardSet(str(cache.get("shards/train")), verify=True)
    records = json.loads((cache.folder / "clips" / "train_qa.json").read_text(encoding="utf-8"))
    assert [shards[i].id for i in range(len(shards))] == [str(record["id"]) for record in records]
    first = shards[0]
    assert not first.trace  # only the teachers and the merger write any
    assert first.clip is not None
    assert first.clip.frames is not None
    assert first.clip.frames.shape == (8, 3, 56, 56)
    assert first.clip.waveform is not None
    assert 16_000 <= len(first.clip.waveform) <= 19_200 + 2 * 512  # the encoder fills up its last frames


def test_a_part_that_is_there_is_not_built_again(cache: DemoCache, capfd: pytest.CaptureFixture[str]) -> None:
    manifest = cache.get("shards/train") / "manifest.json"
    written = manifest.stat().st_mtime_ns
    assert cache.get("shards/train") / "manifest.json" == manifest
    assert manifest.stat().st_mtime_ns == written
    assert "demo:" not in capfd.readouterr().err


def test_the_student_reads_the_demos_words_as_whole_tokens(cache: DemoCache) -> None:
    config = StudentConfig(str(cache.get("student")), dtype="float32", min_pixels=3136, max_pixels=3136, template=TINY)
    student = Student.load(config)
    traced = ShardSet(str(cache.get("traces/train")))
    # Each teacher guesses one of two options, so both are right about one question in four.
    assert 0.1 < len(traced) / (SMALL.train_clips * SMALL.questions_per_clip) < 0.4
    sample = traced[0]
    prompt = student.encoder.encode(sample)
    text = [token for token in prompt.input_ids.tolist() if token < student.processor.tokenizer.video_token_id]
    words = [student.decode([token]).strip() for token in text]
    for option in sample.options:
        assert set(option.split()) <= set(words)
    assert (prompt.input_ids == student.processor.tokenizer.video_token_id).sum() == 16  # 4 frame pairs of 2 x 2 tokens
    assert student.decode(student.encoder.encode_target(sample)) == sample.trace


def test_demo_paths_are_replaced_wherever_they_are(cache: DemoCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avrt.demo.prepare.DemoSettings", lambda: SMALL)
    monkeypatch.setenv(CACHE_VARIABLE, str(cache.folder.parent))
    config = Namespace(
        fit=Namespace(
            data={"init_args": {"train": ["demo:shards/train", "other"], "val": "demo:shards/train"}},
            model=Namespace(student=Namespace(path="demo:student", note="a demo: in the middle"), steps=3, none=None),
        )
    )
    build_demo_paths(config)
    assert config.fit.data["init_args"] == {
        "train": [str(cache.folder / "shards" / "train"), "other"],
        "val": str(cache.folder / "shards" / "train"),
    }
    assert config.fit.model.student.path == str(cache.folder / "student")
    assert config.fit.model.student.note == "a demo: in the middle"


def test_fit_builds_the_demo_before_it_starts(
    cache: DemoCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A preset of the tiny student needs no other command first. Printing its settings builds nothing."""
    preset = Path(__file__).resolve().parents[2] / "cli_configs" / "sft_tiny.yaml"
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "none"))
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(preset), "--print_config"])
    assert not (tmp_path / "none").exists()
    monkeypatch.setattr("avrt.demo.prepare.DemoSettings", lambda: SMALL)
    monkeypatch.setenv(CACHE_VARIABLE, str(cache.folder.parent))
    words = ["--data.val=null", "--data.num_workers=0", "--trainer.max_steps=1", f"--output_dir={tmp_path / 'run'}"]
    assert main(["fit", "--config", str(preset), *words]) == 0
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text(encoding="utf-8"))
    assert saved["data"]["init_args"]["train"] == str(cache.folder / "traces" / "train")
    assert saved["model"]["init_args"]["student"]["path"] == str(cache.folder / "student")


def test_locating_builds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    config = {"data": {"train": "demo:shards/train"}, "model": {"student": {"path": "demo:sft"}}}
    locate_demo_paths(config, tmp_path / "shapes")
    cache = cache_folder(DemoSettings())
    assert config == {
        "data": {"train": str(cache / "shards" / "train")},
        "model": {"student": {"path": str(tmp_path / "shapes")}},
    }
    assert not cache.exists()
    assert [path.name for path in (tmp_path / "shapes").iterdir()] == ["config.json"]


def test_the_shapes_are_those_of_the_built_student(cache: DemoCache, tmp_path: Path) -> None:
    write_shapes(tmp_path)
    built, written = (
        json.loads((folder / "config.json").read_text(encoding="utf-8")) for folder in (cache.get("student"), tmp_path)
    )
    for part in ("text_config", "vision_config", "audio_config"):
        assert {k: v for k, v in written[part].items() if k != "dtype"} == {
            k: v for k, v in built[part].items() if k != "dtype"
        }


def test_an_unknown_part_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no 'demo:shard/train'; the demo has demo:shards/train, .*demo:sft"):
        DemoCache(SMALL, tmp_path).get("shard/train")
    assert not list(tmp_path.iterdir())


def test_other_settings_have_another_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    assert cache_folder(SMALL) == tmp_path / f"demo-{SMALL.version}"
    assert cache_folder(DemoSettings(seed=1)) != cache_folder(DemoSettings(seed=2))
    assert cache_folder(DemoSettings(seed=1)) == cache_folder(DemoSettings(seed=1))
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder(SMALL).parent == tmp_path / "xdg" / "avrt"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder(SMALL).parent == tmp_path / "home" / ".cache" / "avrt"
