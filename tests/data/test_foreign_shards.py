"""Samples of other tools' shards: read directly with the clips that packing would give, or named for what they are."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from avrt.data.clip_workers import ClipReader, ClipSettings
from avrt.data.faults import ShardError
from avrt.data.foreign_index import index_shard
from avrt.data.foreign_members import clean_key
from avrt.data.foreign_shards import ForeignReader, NoClipError, foreign_record, foreign_sample, is_foreign
from avrt.data.records import RecordError, decode_clip
from avrt.files.anonymous_file import anonymous_file
from avrt.sample import KEY_PATTERN
from tests.foreign_shard_files import (
    clip_bytes,
    image_bytes,
    question,
    read_members,
    wav_bytes,
    write_shard,
    write_video2dataset,
)
from tests.media_files import number_of, png_bomb

SETTINGS = ClipSettings(image_format="png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("media")


@pytest.fixture(scope="module")
def reader():
    reader = ForeignReader(SETTINGS, timeout_seconds=60)
    yield reader
    reader.close()


def shown(sample) -> list[int]:
    return [number_of(frame.numpy()) for frame in sample.clip.frames]


def members_of(record, **media) -> dict[str, bytes]:
    return {"json": json.dumps(record).encode(), **{name.replace("__", "."): data for name, data in media.items()}}


class TestSamples:
    def test_webdataset_video(self, folder, reader, tmp_path):
        path = write_shard(
            tmp_path / "s.tar",
            {"__key__": "000", "mp4": clip_bytes(folder, 100), "json": question(3, split="val", note=[1])},
        )
        sample = reader.sample(read_members(path)["000"], "000", "train")
        assert (sample.id, sample.source, sample.split, sample.answer) == ("q-3", "clip_3", "val", 1)
        assert sample.extra["note"] == [1]
        assert shown(sample) == [102 + 5 * i for i in range(8)]
        assert (sample.clip.fps, sample.clip.duration) == (2.0, 4.0)

    def test_the_same_clip_as_by_packing(self, folder, reader, tmp_path):
        path = tmp_path / "c.mp4"
        path.write_bytes(clip_bytes(folder, 50))
        files = ClipReader(SETTINGS, timeout_seconds=60)
        try:
            packed = decode_clip(files.read(path))
        finally:
            files.close()
        clip = reader.sample(members_of(question(), mp4=path.read_bytes()), "k").clip
        assert torch.equal(clip.frames, packed.frames)
        assert torch.equal(clip.waveform, packed.waveform)
        assert (clip.timestamps, clip.fps, clip.duration) == (packed.timestamps, packed.fps, packed.duration)

    def test_real_clips_in_video2dataset_layout(self, real_data, tmp_path):
        rows = json.loads((real_data / "avqa/train_qa.json").read_text())[:3]
        clips = [(real_data / f"avqa/videos/{row['video_name']}.mp4").read_bytes() for row in rows]
        path = write_video2dataset(
            tmp_path / "00000.tar",
            [(f"{i:09d}", row, clip) for i, (row, clip) in enumerate(zip(rows, clips, strict=True))],
        )
        for row, (key, members) in zip(rows, read_members(path).items(), strict=True):
            sample = foreign_sample(members, key)
            assert (sample.id, sample.source) == (str(row["id"]), row["video_name"])
            assert sample.clip.frames.shape[0] == 8
            assert sample.clip.waveform.shape == (160_000,)

    def test_audio_member_of_a_silent_video(self, folder, reader):
        members = members_of(question(), MP4=clip_bytes(folder, audio=False), wav=wav_bytes(folder, 3))
        clip = reader.sample(members, "k").clip
        assert (len(clip.frames), len(clip.waveform), clip.duration) == (8, 48_000, 4.0)

    def test_image_and_audio(self, folder, reader):
        clip = reader.sample(members_of(question(), jpg=image_bytes(7, "JPEG"), wav=wav_bytes(folder, 2)), "k").clip
        assert clip.is_image
        assert (number_of(clip.frames[0].numpy()), len(clip.waveform)) == (7, 32_000)

    def test_audio_alone(self, folder, reader):
        clip = reader.sample(members_of(question(), wav=wav_bytes(folder, 2)), "k").clip
        assert (clip.frames, len(clip.waveform)) == (None, 32_000)

    @pytest.mark.parametrize(
        ("reasoning", "trace"),
        [
            ("<think>\nA bark.</think> <answer>A</answer>", "<think>A bark.</think>\n<answer>A</answer>"),
            ("<think>A meow.</think><answer>B</answer>", None),
            ("It is A.", None),
        ],
    )
    def test_only_checked_reasoning_is_a_target(self, folder, reader, reasoning, trace):
        members = members_of(question(av_reasoning=reasoning), wav=wav_bytes(folder, 1))
        assert reader.sample(members, "k").trace == trace


class TestFrames:
    def frames(self, count: int, pattern: str = "{}.png") -> dict[str, bytes]:
        return {pattern.format(i): image_bytes(i) for i in range(count)}

    @pytest.mark.parametrize("pattern", ["{}.png", "frame_{:03d}.png", "frame{:02d}.PNG", "img-{}.png"])
    def test_rate_in_the_json(self, reader, pattern):
        sample = reader.sample(self.frames(12, pattern) | members_of(question(fps=2)), "k")
        # 6 s: the moments 0.375, 1.125, ... fall on frames 0, 2, 3, 5, ...
        assert shown(sample) == [0, 2, 3, 5, 6, 8, 9, 11]
        assert (sample.clip.duration, sample.clip.fps) == (6.0, 8 / 6)
        assert sample.clip.timestamps == pytest.approx([0.375 + 0.75 * i for i in range(8)])

    def test_times_in_the_json(self, reader):
        sample = reader.sample(self.frames(3) | members_of(question(timestamps=[0, 1, 3.5], duration=4)), "k")
        assert shown(sample) == [0, 0, 1, 1, 1, 1, 1, 2]
        assert sample.clip.duration == 4.0

    def test_as_many_frames_as_are_kept(self, reader):
        times = [0.5 + i for i in range(8)]
        sample = reader.sample(self.frames(8) | members_of(question(timestamps=[round(t, 3) for t in times])), "k")
        assert shown(sample) == list(range(8))

    def test_length_of_the_audio(self, folder, reader):
        sample = reader.sample(self.frames(16) | members_of(question(), wav=wav_bytes(folder, 4)), "k")
        assert shown(sample) == [1, 3, 5, 7, 9, 11, 13, 15]
        assert (sample.clip.duration, len(sample.clip.waveform)) == (4.0, 64_000)

    @pytest.mark.parametrize(
        ("fields", "finding"),
        [
            ({}, "nothing says"),
            ({"fps": 30, "duration": 10}, "last 0.4 s, but `duration` 10 s"),
            ({"fps": 0}, "positive"),
            ({"fps": "fast"}, "positive"),
            ({"duration": 10**400}, "positive"),
            ({"timestamps": [0, 1]}, "2 values"),
            ({"timestamps": [*range(11), float("nan")]}, "12 frames"),
            ({"timestamps": [0, *range(10, -1, -1)]}, "order"),
            ({"timestamps": list(range(12)), "duration": 5}, "ends at 5 s"),
        ],
    )
    def test_unknown_times_are_refused(self, reader, fields, finding):
        with pytest.raises(RecordError, match="no_duration") as caught:
            reader.sample(self.frames(12) | members_of(question(**fields)), "k")
        assert finding in caught.value.detail
        assert "`timestamps`" in caught.value.detail

    def test_frames_of_different_sizes(self, reader):
        frames = self.frames(4) | {"2.png": image_bytes(2, width=256)}
        with pytest.raises(RecordError, match="bad_shape"):
            reader.sample(frames | members_of(question(fps=1)), "k")

    def test_an_image_bomb(self, reader, tmp_path):
        bomb = png_bomb(tmp_path / "b.png").read_bytes()
        with pytest.raises(RecordError, match="bad_media: too_large"):
            reader.sample(self.frames(3) | {"1.png": bomb} | members_of(question(fps=1)), "k")


class TestRefusals:
    @pytest.mark.parametrize("name", ["pyd", "pth", "pickle", "npy", "features.PT"])
    def test_pickles_and_arrays(self, name):
        with pytest.raises(RecordError, match="forbidden_member"):
            foreign_record({"mp4", "json", name}, question(), "k")

    @pytest.mark.parametrize(
        "names", [{"a.mp4", "b.mp4", "json"}, {"mp4", "json", "x.json"}, {"1.jpg", "01.jpg", "json"}]
    )
    def test_several_of_a_kind(self, names):
        with pytest.raises(RecordError, match="extra_member"):
            foreign_record(names, question(), "k")

    def test_what_is_no_question_is_named(self):
        with pytest.raises(RecordError, match="other_tool") as caught:
            foreign_record({"mp4", "txt", "json"}, {"url": "x", "caption": "a dog"}, "k")
        for found in (".mp4", ".txt", "url", "caption", "--annotations"):
            assert found in caught.value.detail
        # Keys that the row was given here are not keys of the member, and `--fields` is for files of annotations.
        for never_there in ("found", "--fields", "`id`"):
            assert never_there not in caught.value.detail

    def test_no_json(self):
        with pytest.raises(RecordError, match=r"other_tool.*\.cls, \.jpg"):
            foreign_record({"jpg", "cls"}, None, "k")

    def test_no_clip(self):
        with pytest.raises(RecordError, match=r"other_tool.*no clip"):
            foreign_record({"txt", "json"}, question(), "k")

    def test_a_failed_download_is_no_fault(self, tmp_path):
        path = write_video2dataset(tmp_path / "0.tar", [("000", question(), None)])
        members = read_members(path)["000"]
        with pytest.raises(NoClipError, match=r"failed_to_download.*404"):
            foreign_record(members, json.loads(members["json"]), "000")

    def test_json_that_does_not_parse(self, folder, reader):
        with pytest.raises(RecordError, match="bad_json"):
            reader.sample({"mp4": clip_bytes(folder), "json": b"[" * 100_000}, "k")

    def test_a_clip_that_cannot_be_read(self, folder, reader):
        with pytest.raises(RecordError, match="bad_media") as caught:
            reader.sample(members_of(question(), mp4=clip_bytes(folder)[:3000]), "k")
        assert "pack --shards" in caught.value.detail

    def test_a_silent_video(self, folder, reader):
        with pytest.raises(RecordError, match="no_audio"):
            reader.sample(members_of(question(), mp4=clip_bytes(folder, audio=False)), "k")

    @pytest.mark.parametrize("name", ["pickled.tar", "pth.tar"])
    def test_pickles_of_others(self, real_data, name):
        path = real_data / "../cases/23-shards" / name
        if not path.exists():
            pytest.skip("needs the cases of shards beside the real data")
        with path.open("rb") as file, pytest.raises(ShardError, match="forbidden_member"):
            index_shard(file, str(path))

    @pytest.mark.parametrize("name", ["frames_only.tar", "v2d_00000.tar"])
    def test_shards_of_others_without_questions(self, real_data, name):
        path = real_data / "../cases/23-shards" / name
        if not path.exists():
            pytest.skip("needs the cases of shards beside the real data")
        for key, members in read_members(path).items():
            record = json.loads(members["json"])
            assert is_foreign(members, record)
            with pytest.raises(RecordError, match="made by another tool: members"):
                foreign_record(members, record, key)


class TestIds:
    def test_own_id_and_key(self):
        assert foreign_record({"mp4", "json"}, question(id=7), "k").id == "7"
        row = {name: value for name, value in question().items() if name not in ("id", "video_name")}
        sample = foreign_record({"mp4", "json"}, row, "000000012")
        assert (sample.id, sample.source) == ("000000012", "000000012")

    def test_keys_become_ids_that_stay_apart(self):
        keys = ["a/b", "a_b", "a b", "ä" * 200, "a.b.c", "-x", ""]
        ids = [clean_key(key) for key in keys]
        assert len(set(ids)) == len(keys)
        assert all(KEY_PATTERN.fullmatch(name) for name in ids)
        assert (ids[1], ids[5]) == ("a_b", "-x")

    def test_an_address_is_kept_and_not_looked_up(self):
        row = {"question": "?", "options": ["a", "b"], "answer": "b", "video": "https://example.org/x.mp4"}
        sample = foreign_record({"mp4", "json"}, row, "k")
        assert (sample.source, sample.extra["video"], sample.answer) == ("k", row["video"], 1)


class TestProcess:
    @pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGSTOP])
    def test_a_crash_or_hang_costs_one_clip(self, folder, number):
        members = members_of(question(), mp4=clip_bytes(folder))
        reader = ForeignReader(SETTINGS, timeout_seconds=3)
        try:
            first = reader.sample(members, "k")
            child = reader._reader._process.pid
            os.kill(child, signal.SIGSTOP)
            if number == signal.SIGSEGV:
                threading.Timer(0.2, os.kill, (child, number)).start()
                threading.Timer(0.3, os.kill, (child, signal.SIGCONT)).start()
            with pytest.raises(RecordError, match="timeout" if number == signal.SIGSTOP else "decoder_crash"):
                reader.sample(members, "k")
            assert torch.equal(reader.sample(members, "k").clip.frames, first.clip.frames)
        finally:
            reader.close()

    def test_in_data_workers(self, folder):
        samples = [members_of(question(i), mp4=clip_bytes(folder, 100 * i)) for i in range(4)]
        loader = torch.utils.data.DataLoader(_Samples(samples), batch_size=None, num_workers=2)
        # JPEG keeps the numbers.
        assert [numbers for numbers, _ in loader] == [[100 * i + 2 + 5 * j for j in range(8)] for i in range(4)]
        children = {child for _, child in loader}
        deadline = time.monotonic() + 20
        while any(_alive(child) for child in children) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(_alive(child) for child in children)


class _Samples(torch.utils.data.Dataset):
    """Decoded in the data worker; with the process that decoded."""

    def __init__(self, samples: list[dict[str, bytes]]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[list[int], int]:
        from avrt.data import foreign_shards

        sample = foreign_sample(self.samples[index], str(index))
        assert foreign_shards._reader is not None
        return shown(sample), foreign_shards._reader._reader._process.pid


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class TestAnonymousFile:
    def test_content_for_other_processes(self):
        with anonymous_file([b"abc", b"", b"d" * 100_000], 100_003) as path:
            size = subprocess.run(["wc", "-c", str(path)], check=True, capture_output=True, text=True).stdout
            assert int(size.split()[0]) == 100_003
        assert not path.exists()

    def test_nothing_is_left_by_a_kill(self, tmp_path):
        program = (
            "import sys, time\n"
            "from pathlib import Path\n"
            "from avrt.files import anonymous_file as module\n"
            "module.MEMORY_FOLDER = Path(sys.argv[1])\n"
            "with module.anonymous_file([b'x' * 1000], 1000):\n"
            "    print('ready', flush=True)\n"
            "    time.sleep(60)\n"
        )
        with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            process.kill()
        assert list(tmp_path.iterdir()) == []

    def test_disk_where_memory_has_no_room(self, tmp_path, monkeypatch):
        monkeypatch.setattr("avrt.files.anonymous_file.MEMORY_FOLDER", tmp_path / "none")
        with anonymous_file([b"x"], 1) as path:
            assert path.read_bytes() == b"x"
