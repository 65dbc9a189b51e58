"""Shards of other tools: opened as a set, and converted by `pack --shards` to what packing the files would give."""

import argparse
import functools
import http.server
import json
import tarfile
import threading
import tracemalloc
import wave
from pathlib import Path

import pytest
import torch

from avrt.commands import pack as pack_command
from avrt.data.clip_workers import ClipSettings
from avrt.data.faults import FaultReason, ShardError
from avrt.data.foreign_index import index_shard
from avrt.data.shard_questions import match_questions, read_shards
from avrt.data.shards import ShardSet
from avrt.sample import Sample
from avrt.storage.shard_cache import ShardCache
from tests.foreign_shard_files import (
    clip_bytes,
    image_bytes,
    question,
    wav_bytes,
    write_by_tar,
    write_shard,
    write_video2dataset,
)

CLIPS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("media")


@pytest.fixture(scope="module")
def video2dataset(folder, tmp_path_factory) -> Path:
    """Two shards of two clips; the second also has a failed download."""
    out = tmp_path_factory.mktemp("v2d")
    clips = [(f"{i:09d}", question(i), clip_bytes(folder, 100 * i)) for i in range(CLIPS)]
    write_video2dataset(out / "00000.tar", clips[:2])
    write_video2dataset(out / "00001.tar", [*clips[2:], ("000000009", question(9), None)])
    (out / "00000_stats.json").write_text("{}")
    return out


def run(*words) -> int:
    parser = argparse.ArgumentParser()
    pack_command.add_arguments(parser)
    return pack_command.run(parser.parse_args([str(word) for word in words]))


def questions(path: Path, *rows: dict) -> Path:
    path.write_text(json.dumps(list(rows)))
    return path


def left_out(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "left_out.jsonl").read_text().splitlines()]


def media(folder: Path) -> dict[str, dict[str, bytes]]:
    shards = ShardSet(folder, verify=True)
    return {key: shards.media(index).members for index, key in enumerate(shards.keys)}


@pytest.fixture(scope="module")
def packed_files(folder, tmp_path_factory) -> Path:
    """The same questions and clips, packed from files."""
    base = tmp_path_factory.mktemp("files")
    (base / "videos").mkdir()
    for i in range(CLIPS):
        (base / f"videos/clip_{i}.mp4").write_bytes(clip_bytes(folder, 100 * i))
    annotations = questions(base / "a.json", *(question(i) for i in range(CLIPS)))
    assert run("--annotations", annotations, "--videos", base / "videos", "--out", base / "out") == 0
    return base / "out"


class TestSets:
    def test_a_set_of_video2dataset(self, video2dataset, packed_files, caplog):
        shards = ShardSet(str(video2dataset / "*.tar"), split="train")
        assert shards.keys == [f"q-{i}" for i in range(CLIPS)]
        assert shards.sources == [f"clip_{i}" for i in range(CLIPS)]
        assert shards.foreign_samples == CLIPS
        assert "failed_to_download: HTTP Error 404" in caplog.text
        for index, packed in enumerate(ShardSet(packed_files)):
            assert shards.metadata(index).question == packed.question
            sample = shards[index]
            assert (sample.id, sample.answer) == (packed.id, packed.answer)
            assert torch.equal(sample.clip.frames, packed.clip.frames)
            assert torch.equal(sample.clip.waveform, packed.clip.waveform)

    def test_keys_in_folders(self, folder, tmp_path):
        row = {name: value for name, value in question().items() if name != "id"}
        path = write_shard(
            tmp_path / "s.tar", *({"__key__": f"{i}/a b", "mp4": clip_bytes(folder), "json": row} for i in range(2))
        )
        shards = ShardSet(path)
        assert len(set(shards.keys)) == 2
        assert [shards[i].id for i in range(2)] == shards.keys

    def test_a_clip_that_cannot_be_read_names_shard_and_sample(self, folder, tmp_path):
        path = write_shard(tmp_path / "s.tar", {"__key__": "000", "mp4": b"nothing", "json": question()})
        shards = ShardSet(path)
        with pytest.raises(ShardError, match="pack --shards") as caught:
            shards[0]
        assert (caught.value.location, caught.value.key) == (str(path), "q-0")
        assert caught.value.reason is FaultReason.BAD_MEDIA

    def test_another_sample_in_its_place(self, folder, tmp_path):
        path = write_shard(tmp_path / "s.tar", {"__key__": "0", "mp4": clip_bytes(folder), "json": question(1)})
        shards = ShardSet(path)
        write_shard(path, {"__key__": "0", "mp4": clip_bytes(folder), "json": question(2)})
        with pytest.raises(ShardError, match=r"not_in_manifest.*'q-2'"):
            shards[0]

    def test_clips_without_questions_are_named(self, folder, tmp_path):
        path = write_video2dataset(tmp_path / "0.tar", [("0", {"url": "x"}, clip_bytes(folder))])
        with pytest.raises(ShardError, match=r"other_tool: made by another tool: members \.json, \.mp4, \.txt"):
            ShardSet(path)

    def test_a_real_shard_of_video2dataset(self, real_data):
        path = real_data / "../cases/23-shards/v2d_00000.tar"
        if not path.exists():
            pytest.skip("needs the cases of shards beside the real data")
        with pytest.raises(ShardError, match=r"made by another tool.*url, caption, status"):
            ShardSet(path)


class TestTar:
    """Archives by GNU tar of a folder with files and folders."""

    @pytest.fixture(scope="class")
    def tree(self, folder, tmp_path_factory) -> Path:
        tree = tmp_path_factory.mktemp("tree")
        for i in range(3):
            inner = tree / ("ä" * 60) / ("long" * 20) if i == 2 else tree
            inner.mkdir(parents=True, exist_ok=True)
            (inner / f"c{i}.json").write_text(json.dumps(question(i)))
        # In this order in the folder, so that the samples' members lie apart.
        for i in range(3):
            inner = tree / ("ä" * 60) / ("long" * 20) if i == 2 else tree
            (inner / f"c{i}.mp4").write_bytes(clip_bytes(folder, 100 * i))
        return tree

    @pytest.mark.parametrize("form", ["pax", "gnu"])
    def test_sorted(self, tree, tmp_path, form):
        path = write_by_tar(tmp_path / "s.tar", tree, f"--format={form}", "--sort=name")
        shards = ShardSet(path)
        assert sorted(shards.keys) == ["q-0", "q-1", "q-2"]
        assert all(sample.clip is not None for sample in shards)

    def test_members_that_lie_apart(self, tree, tmp_path):
        path = tmp_path / "s.tar"
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
            for kind in ("json", "mp4"):
                for file in sorted(tree.rglob(f"*.{kind}")):
                    tar.add(file, file.relative_to(tree))
        with pytest.raises(ShardError, match="sort=name"):
            ShardSet(path)
        assert run("--shards", path, "--out", tmp_path / "out") == 0
        assert sorted(ShardSet(tmp_path / "out").keys) == ["q-0", "q-1", "q-2"]

    def test_a_truncated_archive(self, tree, tmp_path):
        path = write_by_tar(tmp_path / "s.tar", tree)
        path.write_bytes(path.read_bytes()[:-11_000])
        with path.open("rb") as file, pytest.raises(ShardError, match="truncated"):
            index_shard(file, str(path))

    def test_names_with_dots(self, tmp_path):
        tree = tmp_path / "tree"
        tree.mkdir()
        for name in (
            "a.1.mp4",
            "a.1.json",
            "a.2.mp4",
            "a.2.json",
            "b.x.mp4",
            "b.x.json",
            "c.0.jpg",
            "c.1.jpg",
            "c.json",
        ):
            (tree / name).touch()
        path = write_by_tar(tmp_path / "s.tar", tree)
        with path.open("rb") as file:
            found = {entry.key: set(entry.members) for entry in index_shard(file, str(path))}
        assert found == {
            "a.1": {"mp4", "json"},
            "a.2": {"mp4", "json"},
            "b": {"x.mp4", "x.json"},
            "c": {"0.jpg", "1.jpg", "json"},
        }


class TestPack:
    def test_the_same_as_from_files(self, video2dataset, packed_files, tmp_path, capsys):
        assert run("--shards", video2dataset / "{00000..00001}.tar", "--out", tmp_path / "out") == 0
        assert media(tmp_path / "out") == media(packed_files)
        (failed,) = left_out(tmp_path / "out")
        assert (failed["id"], failed["reason"]) == ("q-9", "missing_file")
        assert "404" in failed["detail"]
        assert "missing_file" in capsys.readouterr().out

    def test_from_a_web_server(self, video2dataset, packed_files, tmp_path, monkeypatch):
        monkeypatch.setenv("AVRT_CACHE", str(tmp_path / "cache"))
        handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=video2dataset)
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            address = f"http://127.0.0.1:{server.server_port}/{{00000..00001}}.tar"
            assert run("--shards", address, "--out", tmp_path / "out") == 0
            server.shutdown()
        assert media(tmp_path / "out") == media(packed_files)

    def test_a_folder_of_shards(self, video2dataset, tmp_path):
        assert run("--shards", video2dataset, "--out", tmp_path / "out") == 0
        assert len(ShardSet(tmp_path / "out")) == CLIPS

    def test_a_long_clip_takes_little_memory(self, folder, tmp_path):
        with wave.open(str(tmp_path / "long.wav"), "wb") as file:
            file.setparams((1, 2, 16_000, 0, "NONE", ""))
            file.writeframes(bytes(2600 * 32_000))
        audio = (tmp_path / "long.wav").read_bytes()
        path = write_shard(tmp_path / "s.tar", {"__key__": "0", "wav": audio, "json": question()})
        found = read_shards([str(path)], ShardCache(), show_progress=False)
        reader = found.clips.open_reader(ClipSettings(require_video=False), 60)
        tracemalloc.start()
        try:
            assert reader.read(found.samples[0]).info["duration"] == 2600
            assert tracemalloc.get_traced_memory()[1] < path.stat().st_size / 2
        finally:
            tracemalloc.stop()
            reader.close()

    def test_resumes_and_packs_again_what_changed(self, folder, tmp_path):
        path = write_shard(
            tmp_path / "s.tar", *({"__key__": str(i), "mp4": clip_bytes(folder), "json": question(i)} for i in range(6))
        )
        words = ("--shards", path, "--out", tmp_path / "out", "--samples-per-shard", 2)
        assert run(*words) == 0
        before = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").glob("*.tar")}
        assert run(*words) == 0
        assert {file: file.stat().st_mtime_ns for file in (tmp_path / "out").glob("*.tar")} == before
        other = clip_bytes(folder, 300)
        write_shard(path, *({"__key__": str(i), "mp4": other, "json": question(i)} for i in range(6)))
        assert run(*words) == 0
        assert all(file.stat().st_mtime_ns > time for file, time in before.items())

    def test_clips_that_cannot_be_used_are_left_out(self, folder, tmp_path):
        path = write_shard(
            tmp_path / "s.tar",
            {"__key__": "0", "mp4": clip_bytes(folder), "json": question(0)},
            {"__key__": "1", "mp4": clip_bytes(folder)[:2000], "json": question(1)},
            {"__key__": "2", "mp4": clip_bytes(folder), "json": {"caption": "a dog"}},
            {"__key__": "3", "mp4": clip_bytes(folder), "json": b"{"},
            {"__key__": "4", "mp4": clip_bytes(folder, audio=False), "json": question(4)},
        )
        assert run("--shards", path, "--out", tmp_path / "out", "--max-failures", 1) == 0
        assert ShardSet(tmp_path / "out").keys == ["q-0"]
        assert {entry["id"]: entry["reason"] for entry in left_out(tmp_path / "out")} == {
            "q-1": "unreadable",
            "2": "other_tool",
            "3": "bad_json",
            "q-4": "no_audio",
        }

    def test_other_kinds_of_clips(self, folder, tmp_path):
        frames = {f"{i}.png": image_bytes(i) for i in range(8)}
        path = write_shard(
            tmp_path / "s.tar",
            {"__key__": "frames", **frames, "wav": wav_bytes(folder, 4), "json": question(0)},
            {"__key__": "image", "jpg": image_bytes(7, "JPEG"), "wav": wav_bytes(folder, 2), "json": question(1)},
            {"__key__": "audio", "wav": wav_bytes(folder, 2), "json": question(2)},
        )
        assert run("--shards", path, "--out", tmp_path / "out", "--allow-missing", "video") == 0
        clips = {sample.id: sample.clip for sample in ShardSet(tmp_path / "out")}
        assert [len(clip.waveform) for clip in clips.values()] == [64_000, 32_000, 32_000]
        assert (clips["q-0"].fps, clips["q-1"].is_image, clips["q-2"].frames) == (2.0, True, None)

    def test_audio_alone_needs_no_option(self, folder, tmp_path):
        path = write_shard(tmp_path / "s.tar", {"__key__": "0", "wav": wav_bytes(folder), "json": question()})
        assert run("--shards", path, "--out", tmp_path / "out") == 0

    def test_keys_that_every_shard_has(self, folder, tmp_path):
        row = {name: value for name, value in question().items() if name != "id"}
        for name in ("x", "y"):
            write_shard(tmp_path / f"{name}.tar", {"__key__": "0", "mp4": clip_bytes(folder), "json": row})
        locations = [str(tmp_path / f"{name}.tar") for name in ("x", "y")]
        found = read_shards(locations, ShardCache(), show_progress=False)
        assert [sample.id for sample in found.samples] == ["x_0", "y_0"]
        for name in ("x", "y"):
            write_shard(tmp_path / f"{name}.tar", {"__key__": "0", "mp4": clip_bytes(folder), "json": question()})
        with pytest.raises(ValueError, match=r"'q-0'.*x\.tar.*y\.tar"):
            read_shards(locations, ShardCache(), show_progress=False)

    @pytest.mark.parametrize(
        "words", [[], ["--videos", "v"], ["--annotations", "a"], ["--videos", "v", "--shards", "s"]]
    )
    def test_options_that_do_not_go_together(self, tmp_path, words):
        with pytest.raises(ValueError, match="--annotations and --shards"):
            run(*words, "--out", tmp_path / "out")

    def test_shards_of_this_project(self, packed_files, tmp_path):
        with pytest.raises(ValueError, match="packed already"):
            run("--shards", packed_files / "*.tar", "--out", tmp_path / "out")

    def test_arrays_are_refused(self, folder, tmp_path):
        path = write_shard(
            tmp_path / "s.tar", {"__key__": "0", "mp4": clip_bytes(folder), "npz": b"x", "json": question()}
        )
        with pytest.raises(ShardError, match="forbidden_member"):
            run("--shards", path, "--out", tmp_path / "out")


class TestAnnotations:
    """Questions in a file, clips in shards whose JSON members hold none."""

    def sample(self, source: str, number: int = 0) -> Sample:
        return Sample(id=f"n{number}", question="?", options=("a", "b"), answer=0, source=source)

    @pytest.mark.parametrize(
        ("record", "name", "found_by"),
        [
            ({"url": "https://example.org/v/abc_000010.mp4?token=1"}, "abc_000010", "url"),
            ({"url": "https://www.youtube.com/watch?v=-1pRmoJIGQc"}, "-1pRmoJIGQc", "url"),
            ({"videoid": "abc", "url": "x"}, "abc.mp4", "videoid"),
            ({"url": "x"}, "000000007", "the key"),
            ({"video_name": "videos/abc.mkv", "id": 3}, "abc", "video_name"),
        ],
    )
    def test_ways_to_name_a_clip(self, folder, tmp_path, record, name, found_by):
        path = write_video2dataset(tmp_path / "0.tar", [("000000007", record, clip_bytes(folder))])
        found = match_questions([self.sample(name)], [str(path)], ShardCache(), show_progress=False)
        assert (found.found_by, len(found.samples)) == (found_by, 1)
        assert found.clips.entries["n0"].key == "000000007"

    def test_command(self, folder, tmp_path, capsys):
        rows = [(f"{i}", {"url": f"https://x.org/clip_{i}.mp4"}, clip_bytes(folder, 100 * i)) for i in range(2)]
        path = write_video2dataset(tmp_path / "0.tar", [*rows, ("2", {"url": "https://x.org/clip_2.mp4"}, None)])
        annotations = questions(
            tmp_path / "a.json", *(question(i) for i in range(4)), question(5, video_name="clip_1.mp4")
        )
        assert run("--annotations", annotations, "--shards", path, "--out", tmp_path / "out") == 0
        assert "found by url" in capsys.readouterr().out
        shards = ShardSet(tmp_path / "out")
        assert shards.keys == ["q-0", "q-1", "q-5"]
        assert shards.media(1).members == shards.media(2).members
        reasons = {entry["id"]: entry["detail"] for entry in left_out(tmp_path / "out")}
        assert "404" in reasons["q-2"]
        assert "url" in reasons["q-3"]

    def test_several_clips_of_one_name(self, folder, tmp_path):
        url = "https://www.youtube.com/watch?v=abc"
        rows = [("0_0", {"url": url}, clip_bytes(folder, 0)), ("0_1", {"url": url}, clip_bytes(folder, 100))]
        path = write_video2dataset(tmp_path / "0.tar", [*rows, ("1_0", {"url": "https://youtu.be/d"}, rows[0][2])])
        found = match_questions(
            [self.sample("abc"), self.sample("d", 1)], [str(path)], ShardCache(), show_progress=False
        )
        assert [sample.id for sample in found.samples] == ["n1"]
        assert "several different clips" in found.left_out[0].detail

    def test_nothing_in_common(self, folder, tmp_path):
        path = write_video2dataset(tmp_path / "0.tar", [("0", {"url": "https://x.org/a.mp4"}, clip_bytes(folder))])
        with pytest.raises(ValueError, match=r"'b'.*the key '0', url") as caught:
            match_questions([self.sample("b")], [str(path)], ShardCache(), show_progress=False)
        assert "a.mp4" in str(caught.value)
