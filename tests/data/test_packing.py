"""Packing: the shards do not depend on workers, kills, or full disks; every question left out has its reason."""

import json
import random
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avrt.commands import pack as pack_command
from avrt.data.annotations import read_annotations
from avrt.data.clip_workers import ClipSettings
from avrt.data.pack_plan import RECORDS_FOLDER
from avrt.data.packing import LEFT_OUT_NAME, PackOptions, PackReport
from avrt.data.packing import pack as pack_samples
from avrt.data.shards import ShardSet
from avrt.files.folder_lock import FolderInUseError
from avrt.sample import Sample
from tests.media_files import as_int16, number_of, numbered_frame, tone, write_video

CLIPS = 12


def pack(samples: list[Sample], videos: Path, out: Path, **changes: Any) -> PackReport:
    """Pack without a progress bar; `changes` are fields of `ClipSettings` and `PackOptions`."""
    names = {field.name for field in fields(PackOptions)}
    options = {"workers": 2, "show_progress": False} | {k: v for k, v in changes.items() if k in names}
    settings = {name: value for name, value in changes.items() if name not in names}
    return pack_samples(samples, videos, out, ClipSettings(**settings), PackOptions(**options))


def questions(clips: int = CLIPS, each: int = 2) -> list[Sample]:
    """`each` questions per clip; the clips are called ``-clip_00`` and so on."""
    return [
        Sample(
            id=f"{clip}-{number}",
            question=f"question {number} about {clip}",
            options=("a", "b"),
            answer=number % 2,
            source=f"-clip_{clip:02d}",
        )
        for clip in range(clips)
        for number in range(each)
    ]


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for clip in range(CLIPS):
        write_video(
            folder / f"-clip_{clip:02d}.mp4",
            [numbered_frame(100 * clip + i) for i in range(40)],
            audio=as_int16(tone(200 + 20 * clip, 4, 16_000)),
            audio_codec="aac",
        )
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def as_avqa(samples: list[Sample]) -> list[dict]:
    return [
        {
            "id": sample.id,
            "video_name": sample.source,
            "question_text": sample.question,
            "multi_choice": list(sample.options),
            "answer": sample.answer,
        }
        for sample in samples
    ]


@pytest.fixture(scope="module")
def packed(videos, tmp_path_factory) -> Path:
    """An undisturbed run of one worker."""
    out = tmp_path_factory.mktemp("packed") / "out"
    report = pack(questions(), videos, out, samples_per_shard=3, workers=1)
    assert report.left_out == ()
    return out


def test_shards_hold_the_clips(packed):
    shards = ShardSet(packed, verify=True)
    assert shards.keys == [sample.id for sample in questions()]
    for index in (0, 1, 9, 23):
        sample = shards[index]
        clip = int(sample.source[-2:])
        # 4 s at 10 frames per second: the centres are 0.25, 0.75, ... s.
        assert [number_of(frame.numpy()) for frame in sample.clip.frames] == [100 * clip + 2 + 5 * i for i in range(8)]
        assert (sample.clip.fps, sample.clip.duration) == (2.0, 4.0)
        expected = tone(200 + 20 * clip, 4, 16_000)
        audio = sample.clip.waveform.numpy()[: len(expected)]
        assert np.corrcoef(audio, expected[: len(audio)])[0, 1] > 0.99


def read(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())


def test_manifest_says_how(packed):
    manifest = read(packed)
    assert manifest["samples"] == 24
    assert [shard["samples"] for shard in manifest["shards"]] == [3] * 8
    assert manifest["splits"] == {"train": 24}
    assert manifest["settings"]["num_frames"] == 8
    assert manifest["settings"]["samples_per_shard"] == 3
    assert manifest["left_out"] == {}


def test_worker_count_changes_no_byte(packed, videos, tmp_path):
    pack(questions(), videos, tmp_path / "out", samples_per_shard=3, workers=3)
    assert contents(tmp_path / "out") == contents(packed)


def test_a_finished_run_does_nothing_again(packed, videos):
    before = {path: path.stat().st_mtime_ns for path in packed.rglob("*")}
    report = pack(questions(), videos, packed, samples_per_shard=3)
    assert (report.resumed_shards, report.manifest.samples) == (8, 24)
    assert {path: path.stat().st_mtime_ns for path in packed.rglob("*")} == before


def test_left_out_with_reasons_and_packed_once_fixed(videos, tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    samples = questions(6)
    for sample in samples:
        path = folder / f"{sample.source}.mp4"
        if not path.exists():
            path.symlink_to(videos / path.name)
    names = [f"-clip_{i:02d}.mp4" for i in range(6)]
    (folder / names[1]).unlink()
    (folder / names[2]).unlink()
    (folder / names[2]).write_bytes(b"")
    (folder / names[3]).unlink()
    write_video(folder / names[3], [numbered_frame(0)] * 5)
    report = pack(samples, folder, tmp_path / "out", samples_per_shard=4, max_failures=0.5)
    expected = {"1-0": "missing_file", "2-0": "empty_file", "3-0": "no_audio"}
    expected |= {key.replace("-0", "-1"): reason for key, reason in expected.items()}
    assert {entry.id: entry.reason for entry in report.left_out} == expected
    lines = [json.loads(line) for line in (tmp_path / "out" / LEFT_OUT_NAME).read_text().splitlines()]
    assert {line["id"]: line["reason"] for line in lines} == expected
    assert read(tmp_path / "out")["left_out"] == {"empty_file": 2, "missing_file": 2, "no_audio": 2}
    assert ShardSet(tmp_path / "out").keys == ["0-0", "0-1", "4-0", "4-1", "5-0", "5-1"]
    again = pack(samples, folder, tmp_path / "out", samples_per_shard=4, max_failures=0.5)
    assert (again.resumed_shards, len(again.manifest.shards)) == (2, 2), "a group without any clip has no shard"

    # The clips are found after all: only the shards they belong to are made again.
    for name in names[1:4]:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(videos / name)
    report = pack(samples, folder, tmp_path / "out", samples_per_shard=4, max_failures=0.5)
    assert (report.left_out, report.resumed_shards) == ((), 1)
    fresh = tmp_path / "fresh"
    pack(samples, folder, fresh, samples_per_shard=4, max_failures=0.5)
    assert contents(tmp_path / "out") == contents(fresh)


def test_a_shard_without_usable_clips_is_absent(videos, tmp_path):
    samples = [replace(sample, source="none") if sample.id[0] == "0" else sample for sample in questions(3)]
    report = pack(samples, videos, tmp_path / "out", samples_per_shard=2)
    assert [shard.name for shard in report.manifest.shards] == ["shard-000001.tar", "shard-000002.tar"]
    assert ShardSet(tmp_path / "out", verify=True).keys == ["1-0", "1-1", "2-0", "2-1"]


def test_too_many_failures_stop_the_run(videos, tmp_path):
    samples = [replace(sample, source=f"absent-{sample.id}") for sample in questions(60)]
    # Shards are made side by side, so any of the clips may be the first to fail.
    with pytest.raises(ValueError, match=r"missing_file \d+.*more than the allowed share of 0\.5.*'absent-\d+-\d+'"):
        pack(samples, videos, tmp_path / "out", samples_per_shard=5)
    assert not (tmp_path / "out" / "manifest.json").exists()
    # 50 questions were enough to see it.
    assert len(list((tmp_path / "out" / RECORDS_FOLDER).glob("shard-*.json"))) <= 12


def test_other_settings_are_refused(packed, videos):
    with pytest.raises(ValueError, match=r"num_frames 8 \(now 4\)"):
        pack(questions(), videos, packed, samples_per_shard=3, num_frames=4)


def test_shards_that_were_not_packed_here_are_kept(videos, tmp_path):
    (tmp_path / "shard-000000.tar").write_bytes(b"mine")
    with pytest.raises(ValueError, match="not packed here"):
        pack(questions(), videos, tmp_path)
    assert (tmp_path / "shard-000000.tar").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"workers": 0}, "workers"),
        ({"max_failures": 1.5}, "max_failures"),
        ({"clip_timeout_seconds": 0}, "clip_timeout_seconds"),
        ({"clip_timeout_seconds": float("nan")}, "clip_timeout_seconds"),
        ({"clip_timeout_seconds": float("inf")}, "clip_timeout_seconds"),
        ({"samples_per_shard": 0}, "samples_per_shard"),
        ({"num_frames": 0}, "num_frames"),
        ({"max_audio_seconds": 0.0}, "max_audio_seconds"),
        ({"max_audio_seconds": float("nan")}, "max_audio_seconds"),
        ({"max_audio_seconds": float("inf")}, "max_audio_seconds"),
        ({"max_pixels": 783}, "max_pixels"),
        ({"jpeg_quality": 0}, "jpeg_quality"),
        ({"jpeg_quality": 101}, "jpeg_quality"),
        ({"image_format": "gif"}, "image_format"),
    ],
)
def test_arguments(videos, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        pack(questions(), videos, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("source", ["", "../x", "a/../../x", "/etc/x", "a//b"])
def test_sources_stay_in_the_folder(videos, tmp_path, source):
    samples = [replace(questions(1)[0], source=source)]
    with pytest.raises(ValueError, match="`source`"):
        pack(samples, videos, tmp_path / "out")


def test_no_folder_of_videos(tmp_path):
    with pytest.raises(ValueError, match="videos:"):
        pack(questions(), tmp_path / "none", tmp_path / "out")


def start_packing(annotations: Path, videos: Path, out: Path) -> subprocess.Popen:
    words = [sys.executable, "-m", "avrt", "pack", "--annotations", annotations, "--videos", videos, "--out", out]
    words += ["--samples-per-shard", "3", "--workers", "2"]
    return subprocess.Popen([str(word) for word in words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill_and_finish(packed: Path, videos: Path, tmp_path: Path, kills: int, seed: int = 0) -> None:
    """Kill runs at random moments after their first shard, finish, and compare with the undisturbed run."""
    annotations, out = tmp_path / "a.json", tmp_path / "out"
    annotations.write_text(json.dumps(as_avqa(questions())))
    rng = random.Random(seed)
    for _ in range(kills):
        process = start_packing(annotations, videos, out)
        before = len(list(out.glob(f"{RECORDS_FOLDER}/shard-*.json")))
        while process.poll() is None and len(list(out.glob(f"{RECORDS_FOLDER}/shard-*.json"))) == before:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.03))
        process.kill()
        process.wait()
        if not (out / "manifest.json").exists():
            with pytest.raises(ValueError, match=r"manifest\.json"):
                ShardSet(out)
    report = pack(read_annotations(annotations).samples, videos, out, samples_per_shard=3)
    assert report.resumed_shards >= min(kills, 8)
    assert contents(out) == contents(packed)


def test_killed_and_resumed(packed, videos, tmp_path):
    kill_and_finish(packed, videos, tmp_path, kills=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_killed_many_times_and_resumed(packed, videos, tmp_path, seed):
    kill_and_finish(packed, videos, tmp_path, kills=4, seed=seed)


def test_interrupted_between_shard_and_record(packed, videos, tmp_path):
    """What a kill can leave: a shard without its record, partial files, a record without its shard."""
    out = tmp_path / "out"
    pack(questions(), videos, out, samples_per_shard=3)
    (out / "manifest.json").unlink()
    (out / RECORDS_FOLDER / "shard-000002.json").unlink()
    (out / "shard-000002.tar").write_bytes(b"half")
    (out / "shard-000003.tar").unlink()
    (out / "shard-000004.tar.partial").write_bytes(b"half")
    (out / RECORDS_FOLDER / "shard-000005.json.partial").write_bytes(b"{")
    (out / "shard-000006.tar").write_bytes((out / "shard-000006.tar").read_bytes()[:-512])
    report = pack(questions(), videos, out, samples_per_shard=3)
    assert report.resumed_shards == 5
    assert contents(out) == contents(packed)


def test_two_packs_into_one_folder(packed, videos, tmp_path):
    """The second is refused at once; the first is not disturbed."""
    annotations, out = tmp_path / "a.json", tmp_path / "out"
    annotations.write_text(json.dumps(as_avqa(questions())))
    first = start_packing(annotations, videos, out)
    while first.poll() is None and not list(out.glob(f"{RECORDS_FOLDER}/shard-*.json")):
        time.sleep(0.005)
    with pytest.raises(FolderInUseError) as refusal:
        pack(questions(), videos, out, samples_per_shard=3)
    assert all(part in str(refusal.value) for part in (str(out), "`pack`", str(first.pid)))
    assert first.wait() == 0
    assert contents(out) == contents(packed)


def test_fewer_questions_leave_no_old_shards(packed, videos, tmp_path):
    out = tmp_path / "out"
    pack(questions(), videos, out, samples_per_shard=3)
    pack(questions()[:9], videos, out, samples_per_shard=3)
    assert sorted(path.name for path in out.glob("*.tar")) == [f"shard-{i:06d}.tar" for i in range(3)]
    assert len(ShardSet(out, verify=True)) == 9


def test_full_disk(packed, videos, tmp_path):
    """A file size limit simulates the full disk: the error names the shard, and the run resumes."""
    import resource

    out = tmp_path / "out"
    smallest = min(path.stat().st_size for path in packed.glob("*.tar"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (smallest // 2, hard))
    try:
        with pytest.raises(OSError, match=r"shard-00000\d\.tar"):
            pack(questions(), videos, out, samples_per_shard=3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(out.glob("shard-*"))
    pack(questions(), videos, out, samples_per_shard=3)
    assert contents(out) == contents(packed)


def run_command(*words: str) -> int:
    import argparse

    parser = argparse.ArgumentParser()
    pack_command.add_arguments(parser)
    return pack_command.run(parser.parse_args([str(word) for word in words]))


def test_command_on_real_clips(real_data, tmp_path, capsys):
    annotations = tmp_path / "a.json"
    records = json.loads((real_data / "avqa" / "val_qa.json").read_text())
    annotations.write_text(json.dumps([*records, {**records[0], "id": 1, "video_name": "[absent]"}]))
    videos = real_data / "avqa" / "videos"
    assert (
        run_command("--annotations", annotations, "--videos", videos, "--out", tmp_path / "out", "--split", "val") == 0
    )
    printed = capsys.readouterr().out
    assert "4 of 5 questions in" in printed
    assert "missing_file" in printed
    assert "[absent]" in printed
    shards = ShardSet(tmp_path / "out", split="val", verify=True)
    assert shards.keys == [sample.id for sample in read_annotations(annotations).samples][:4]
    for sample in shards:
        assert sample.clip.frames.shape[0] == 8
        assert len(sample.clip.waveform) > 90_000
