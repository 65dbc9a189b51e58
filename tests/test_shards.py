"""Shards: equal input gives equal bytes, what is read is what was written, and nothing damaged or hostile gets in."""

import hashlib
import io
import json
import os
import pickle
import struct
import tarfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import webdataset
from media_files import png_bomb
from PIL import Image
from torch.utils.data import DataLoader

from avrt.manifest import MANIFEST_NAME
from avrt.sample import Clip, Sample
from avrt.shard_records import RecordError, decode_clip, encode_clip
from avrt.shards import FaultReason, ShardError, ShardSet, ShardWriter, read_manifest, stream_shards


def make_clip(seed: int = 0, frames: int = 3, seconds: float = 0.5) -> Clip:
    """Smooth pictures, which JPEG keeps well, and quiet noise."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.linspace(0, 255, 48).expand(32, 48)
    pictures = torch.stack([torch.stack([base, base.flip(1), torch.full_like(base, 20.0 * t)]) for t in range(frames)])
    return Clip(
        frames=(pictures + seed % 7).clamp(0, 255).to(torch.uint8),
        timestamps=tuple(t + 0.5 for t in range(frames)),
        fps=1.0,
        waveform=torch.rand(round(seconds * 16_000), generator=generator) - 0.5,
        duration=float(frames),
        width=96,
        height=64,
    )


def make_sample(index: int, **changes) -> Sample:
    fields = {
        "id": f"q-{index:03d}",
        "question": f"What is № {index}?",
        "options": ("one", "two", "three"),
        "answer": index % 3,
        "split": "val" if index % 5 == 4 else "train",
        "question_type": "Which",
        "modality": "Both",
        "source": f"clip_{index // 2}",
        "clip": make_clip(index),
        "trace": "<think>so</think><answer>A</answer>" if index % 2 else None,
        "teacher_traces": {"vision": "a picture\u2028of it"},
        "extra": {"video_id": index, "nested": [1, None, {"x": 0.1}]},
    }
    return Sample(**{**fields, **changes})


def write_set(folder: Path, count: int = 7, **options) -> list[Sample]:
    samples = [make_sample(index) for index in range(count)]
    with ShardWriter(folder, samples_per_shard=3, **options) as writer:
        for sample in samples:
            writer.write(sample)
    return samples


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class TestRoundTrip:
    def test_what_is_read_is_what_was_written(self, tmp_path):
        samples = write_set(tmp_path / "s", image_format="png")
        shards = ShardSet(tmp_path / "s", verify=True)
        assert len(shards) == 7
        assert shards.keys == [sample.id for sample in samples]
        for index, sample in enumerate(samples):
            read = shards[index]
            assert replace(read, clip=None) == replace(sample, clip=None) == shards.metadata(index)
            assert torch.equal(read.clip.frames, sample.clip.frames)
            # 16 bits: half a step of 1/32768
            assert (read.clip.waveform - sample.clip.waveform).abs().max() <= 0.5 / 32768
            assert replace(read.clip, frames=sample.clip.frames, waveform=sample.clip.waveform) == sample.clip

    def test_jpeg_is_close(self):
        clip = make_clip()
        read = decode_clip(encode_clip(clip))
        assert (read.frames.int() - clip.frames.int()).abs().float().mean() < 1.0

    @pytest.mark.parametrize("part", ["video", "audio", "image", "image and audio"])
    def test_partial_clips(self, tmp_path, part):
        clip = make_clip(frames=1)
        if part == "video":
            clip = replace(clip, waveform=None)
        elif part == "audio":
            clip = Clip(frames=None, waveform=clip.waveform, duration=0.5)
        else:
            waveform = clip.waveform if "audio" in part else None
            clip = Clip(clip.frames, (0.0,), None, waveform, 0.0, 48, 32, is_image=True)
        with ShardWriter(tmp_path / "s", image_format="png") as writer:
            writer.write(make_sample(0, clip=clip))
        read = ShardSet(tmp_path / "s")[0].clip
        assert (read.frames is None) == (clip.frames is None)
        assert (read.waveform is None) == (clip.waveform is None)
        assert (read.is_image, read.fps, read.timestamps) == (clip.is_image, clip.fps, clip.timestamps)

    def test_full_scale_survives(self):
        waveform = torch.tensor([1.0, -1.0, 0.0, 0.5])
        read = decode_clip(encode_clip(Clip(None, waveform=waveform))).waveform
        assert read.tolist() == [32767 / 32768, -1.0, 0.0, 0.5]

    def test_more_than_a_hundred_frames_stay_in_order(self):
        frames = torch.arange(120, dtype=torch.uint8)[:, None, None, None].expand(120, 3, 8, 8).contiguous()
        clip = Clip(frames, tuple(float(i) for i in range(120)), 1.0)
        assert torch.equal(decode_clip(encode_clip(clip, image_format="png")).frames, frames)

    def test_stream_and_random_access_agree(self, tmp_path):
        write_set(tmp_path / "s")
        shards = ShardSet(tmp_path / "s")
        streamed = list(stream_shards(tmp_path / "s"))
        assert [sample.id for sample in streamed] == shards.keys
        for index, sample in enumerate(streamed):
            assert torch.equal(sample.clip.frames, shards[index].clip.frames)
            assert torch.equal(sample.clip.waveform, shards[index].clip.waveform)
            assert replace(sample, clip=None) == shards.metadata(index)
        assert [s.id for s in stream_shards(tmp_path / "s", split="val")] == ["q-004"]

    def test_plain_webdataset_reads_our_shards(self, tmp_path):
        samples = write_set(tmp_path / "s")
        urls = [str(path) for path in sorted((tmp_path / "s").glob("*.tar"))]
        dataset = webdataset.WebDataset(urls, shardshuffle=False)
        groups = list(dataset)
        assert [group["__key__"] for group in groups] == [sample.id for sample in samples]
        for group, sample in zip(groups, samples, strict=True):
            names = {name for name in group if not name.startswith("__")}
            assert names == {"json", "flac", "frame00.jpg", "frame01.jpg", "frame02.jpg"}
            assert json.loads(group["json"])["question"] == sample.question
            assert Image.open(io.BytesIO(group["frame00.jpg"])).size == (48, 32)
            sound, rate = soundfile.read(io.BytesIO(group["flac"]))
            assert (rate, len(sound)) == (16_000, 8_000)

    def test_splits(self, tmp_path):
        write_set(tmp_path / "s")
        assert ShardSet(tmp_path / "s", split="val").keys == ["q-004"]
        assert len(ShardSet(tmp_path / "s", split="train")) == 6
        with pytest.raises(ValueError, match="no sample of split 'test'"):
            ShardSet(tmp_path / "s", split="test")

    def test_ways_to_name_shards(self, tmp_path):
        write_set(tmp_path / "s")
        one = tmp_path / "s" / "shard-000001.tar"
        assert ShardSet(one).keys == ["q-003", "q-004", "q-005"]
        assert len(ShardSet(str(tmp_path / "s" / "*.tar"))) == 7
        assert ShardSet([tmp_path / "s" / "shard-000002.tar", str(one)]).keys == ["q-006", "q-003", "q-004", "q-005"]
        with pytest.raises(ValueError, match="no such folder, file or pattern"):
            ShardSet(tmp_path / "s" / "none-*.tar")
        (tmp_path / "empty").mkdir()
        with pytest.raises(ValueError, match="no finished set of shards"):
            ShardSet(tmp_path / "empty")

    def test_worker_processes(self, tmp_path):
        write_set(tmp_path / "s")
        shards = pickle.loads(pickle.dumps(ShardSet(tmp_path / "s")))
        loader = DataLoader(shards, batch_size=None, num_workers=2)
        assert [sample.id for sample in loader] == shards.keys

    def test_index_bounds(self, tmp_path):
        write_set(tmp_path / "s")
        shards = ShardSet(tmp_path / "s")
        assert shards[-1].id == "q-006"
        with pytest.raises(IndexError):
            shards[7]

    def test_media_can_be_copied_without_coding_it_again(self, tmp_path):
        write_set(tmp_path / "s")
        shards = ShardSet(tmp_path / "s")
        with ShardWriter(tmp_path / "t") as writer:
            for index in range(len(shards)):
                writer.write(replace(shards.metadata(index), trace="new"), shards.media(index))
        copies = ShardSet(tmp_path / "t")
        assert copies.metadata(2).trace == "new"
        assert copies.media(2).members == shards.media(2).members


class TestWriting:
    def test_equal_input_gives_equal_bytes(self, tmp_path, monkeypatch):
        write_set(tmp_path / "a", settings={"by": "test"})
        monkeypatch.setattr("time.time", lambda: 4e9)
        write_set(tmp_path / "b", settings={"by": "test"})
        assert contents(tmp_path / "a") == contents(tmp_path / "b")
        assert len(contents(tmp_path / "a")) == 4

    def test_members_carry_no_trace_of_the_machine(self, tmp_path):
        write_set(tmp_path / "a")
        with tarfile.open(tmp_path / "a" / "shard-000000.tar") as tar:
            for member in tar:
                assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")

    def test_manifest(self, tmp_path):
        write_set(tmp_path / "a", settings={"by": "test"})
        manifest = read_manifest(tmp_path / "a")
        assert [shard.samples for shard in manifest.shards] == [3, 3, 1]
        assert manifest.splits == {"train": 6, "val": 1}
        assert manifest.shards[1].splits == {"train": 2, "val": 1}
        assert manifest.settings == {"by": "test", "image_format": "jpg", "jpeg_quality": 95}
        for shard in manifest.shards:
            data = (tmp_path / "a" / shard.name).read_bytes()
            assert (len(data), hashlib.sha256(data).hexdigest()) == (shard.bytes, shard.sha256)

    def test_an_exception_leaves_an_unfinished_set(self, tmp_path):
        def fail():
            with ShardWriter(tmp_path / "a", samples_per_shard=2) as writer:
                for index in range(5):
                    writer.write(make_sample(index))
                raise RuntimeError("interrupted")

        with pytest.raises(RuntimeError, match="interrupted"):
            fail()
        assert sorted(contents(tmp_path / "a")) == ["shard-000000.tar", "shard-000001.tar"]
        with pytest.raises(ValueError, match="no finished set"):
            ShardSet(tmp_path / "a")
        write_set(tmp_path / "a", count=1)
        assert sorted(contents(tmp_path / "a")) == [MANIFEST_NAME, "shard-000000.tar"]

    def test_a_finished_set_is_not_overwritten_by_accident(self, tmp_path):
        write_set(tmp_path / "a")
        with pytest.raises(ValueError, match="already holds a finished set"):
            write_set(tmp_path / "a")
        write_set(tmp_path / "a", count=2, overwrite=True)
        assert len(ShardSet(tmp_path / "a")) == 2

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"clip": None}, "no clip"),
            ({"id": "a.b"}, "cannot name"),
            ({"id": "../x"}, "cannot name"),
            ({"clip": Clip(None, waveform=torch.tensor([0.0, 1.5]))}, "peaks at 1.500"),
            ({"clip": Clip(None, waveform=torch.tensor([float("nan")]))}, "not finite"),
            ({"clip": Clip(None, waveform=torch.zeros(5, dtype=torch.float64))}, "must be float32"),
            ({"clip": Clip(torch.zeros(1, 3, 8, 8), (0.0,), 1.0)}, "must be uint8"),
            ({"clip": Clip(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), (0.0,), 1.0)}, "1 timestamps"),
            ({"extra": {"x": object()}}, "JSON values only"),
            ({"extra": {"x": float("nan")}}, "JSON values only"),
        ],
    )
    def test_what_cannot_be_stored(self, tmp_path, change, message):
        with pytest.raises(ValueError, match=message), ShardWriter(tmp_path / "a") as writer:
            writer.write(make_sample(0, **change))

    def test_a_key_twice(self, tmp_path):
        # Also when the first one stands in a shard that is closed already.
        for samples_per_shard in (1, 2):
            with ShardWriter(tmp_path / str(samples_per_shard), samples_per_shard=samples_per_shard) as writer:
                writer.write(make_sample(0))
                with pytest.raises(ValueError, match="'q-000' is written twice"):
                    writer.write(make_sample(0))

    def test_full_disk(self, tmp_path):
        """A file size limit stands in for the full disk: writing fails half way, for real."""
        import resource

        write_set(tmp_path / "whole")
        largest = max(path.stat().st_size for path in (tmp_path / "whole").glob("*.tar"))
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest // 2, hard))
        try:
            with pytest.raises(OSError, match=r"shard-000000\.tar"):
                write_set(tmp_path / "a")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert not contents(tmp_path / "a")
        write_set(tmp_path / "a")
        assert contents(tmp_path / "a") == contents(tmp_path / "whole")


def rewrite(path: Path, edit) -> None:
    """Write a tar again, each (name, data, header) as `edit` returns it: a list of such triples for each."""
    with tarfile.open(path) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar]
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for member, data in members:
            for header, content in edit(member, data):
                header.size = len(content) if header.isreg() else 0
                tar.addfile(header, io.BytesIO(content))


def add_member(path: Path, name: str, data: bytes = b"x", kind: bytes = tarfile.REGTYPE, target: str = "") -> None:
    header = tarfile.TarInfo(name)
    header.size = len(data) if kind == tarfile.REGTYPE else 0
    header.type, header.linkname = kind, target
    with tarfile.open(path, "a", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(header, io.BytesIO(data))


def without_manifest(folder: Path) -> Path:
    (folder / MANIFEST_NAME).unlink()
    return folder / "shard-000000.tar"


def faults_of(shards: str | Path | list[str], **options) -> tuple[list[str], list[tuple[FaultReason, str | None]]]:
    """Keys left and faults found under `skip`, the same at random and in order; and that `raise` raises the first."""
    found = ShardSet(shards, on_error="skip", **options)
    for index in range(len(found)):
        assert found[index].id == found.keys[index]
    streamed_faults: list[ShardError] = []
    streamed = [sample.id for sample in stream_shards(shards, on_error="skip", on_fault=streamed_faults.append)]
    assert streamed == found.keys
    faults = [(fault.reason, fault.key) for fault in found.faults]
    assert [(fault.reason, fault.key) for fault in streamed_faults] == [f for f in faults if f[1] or not options]
    with pytest.raises(ShardError) as caught:
        ShardSet(shards, **options)
    assert (caught.value.reason, caught.value.key) == faults[0]
    with pytest.raises(ShardError):
        list(stream_shards(shards))
    return found.keys, faults


class TestDamage:
    @pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 0.95])
    def test_truncated(self, tmp_path, share):
        write_set(tmp_path / "s")
        path = tmp_path / "s" / "shard-000000.tar"
        data = path.read_bytes()
        path.write_bytes(data[: int(share * len(data))])
        keys, faults = faults_of(tmp_path / "s")
        assert (FaultReason.TRUNCATED, None) in faults
        whole = ["q-000", "q-001", "q-002"]
        assert [key for key in keys if key in whole] == whole[: len(keys) - 4]
        assert keys[-4:] == ["q-003", "q-004", "q-005", "q-006"]

    def test_every_truncation_is_seen(self, tmp_path):
        """Cut at each block: no cut goes unseen, and every sample that comes out is whole."""
        write_set(tmp_path / "s", count=2)
        path = without_manifest(tmp_path / "s")
        data = path.read_bytes()
        end = len(data.rstrip(b"\0"))
        closing = -(-end // 512) * 512 + 1024
        for size in range(0, closing, 512):
            path.write_bytes(data[:size])
            found = ShardSet(path, on_error="skip")
            assert [fault.reason for fault in found.faults if fault.key is None] == [FaultReason.TRUNCATED]
            assert all(found[index].clip.frames.shape == (3, 3, 32, 48) for index in range(len(found)))
        path.write_bytes(data[:closing])
        assert len(ShardSet(path)) == 2

    def test_flipped_bits(self, tmp_path):
        """One flipped bit anywhere: found by `verify`, and never read as if nothing had happened."""
        write_set(tmp_path / "s", count=2)
        path = tmp_path / "s" / "shard-000000.tar"
        data = path.read_bytes()
        original = {sample.id: sample for sample in ShardSet(path)}
        used = len(data.rstrip(b"\0"))
        rng = np.random.default_rng(0)
        for position in rng.integers(0, used, 150):
            damaged = bytearray(data)
            damaged[position] ^= 1 << int(rng.integers(0, 8))
            path.write_bytes(damaged)
            assert ShardSet(path, verify=True, on_error="skip").faults
            found = ShardSet(path, on_error="skip")
            for index, key in enumerate(found.keys):
                reasons = []
                try:
                    sample = found[index]
                except ShardError as error:
                    reasons.append(error.reason)
                if reasons:
                    assert reasons == [FaultReason.CHECKSUM]
                    continue
                assert torch.equal(sample.clip.frames, original[key].clip.frames)
                assert torch.equal(sample.clip.waveform, original[key].clip.waveform)
                assert replace(sample, clip=None) == replace(original[key], clip=None)

    def test_verify_drops_only_the_damaged_sample(self, tmp_path):
        write_set(tmp_path / "s")
        path = tmp_path / "s" / "shard-000000.tar"
        data = bytearray(path.read_bytes())
        position = data.index(b"q-001.frame01.jpg") + 512 + 100
        data[position] ^= 1
        path.write_bytes(data)
        keys, faults = faults_of(tmp_path / "s", verify=True)
        assert faults == [(FaultReason.CHECKSUM, None), (FaultReason.CHECKSUM, "q-001")]
        assert keys == ["q-000", *(f"q-{i:03d}" for i in range(2, 7))]
        # Without `verify` the damage is found on reading.
        found = ShardSet(tmp_path / "s", on_error="skip")
        assert len(found) == 7
        with pytest.raises(ShardError, match=r"q-001.*checksum.*frame01"):
            found[1]

    @pytest.mark.parametrize("open_file", ["gzip", "bz2", "lzma"])
    def test_compressed(self, tmp_path, open_file):
        write_set(tmp_path / "s", count=2)
        path = without_manifest(tmp_path / "s")
        data = path.read_bytes()
        with __import__(open_file).open(path, "wb") as file:
            file.write(data)
        assert faults_of([path]) == ([], [(FaultReason.COMPRESSED, None)])

    def test_compressed_bomb_is_not_unpacked(self, tmp_path):
        import gzip

        with gzip.open(tmp_path / "bomb.tar", "wb") as file:
            for _ in range(200):
                file.write(bytes(2**20))
        assert faults_of([tmp_path / "bomb.tar"]) == ([], [(FaultReason.COMPRESSED, None)])

    @pytest.mark.parametrize("lost", ["json", "flac", "frame01.jpg"])
    def test_missing_member(self, tmp_path, lost):
        write_set(tmp_path / "s", count=3)
        path = without_manifest(tmp_path / "s")
        rewrite(path, lambda header, data: [] if header.name == f"q-001.{lost}" else [(header, data)])
        assert faults_of(path) == (["q-000", "q-002"], [(FaultReason.MISSING_MEMBER, "q-001")])

    def test_extra_member(self, tmp_path):
        write_set(tmp_path / "s", count=3)
        path = without_manifest(tmp_path / "s")
        add_member(path, "q-002.frame03.jpg")
        assert faults_of(path) == (["q-000", "q-001"], [(FaultReason.EXTRA_MEMBER, "q-002")])

    def test_member_twice(self, tmp_path):
        write_set(tmp_path / "s", count=3)
        path = without_manifest(tmp_path / "s")
        rewrite(path, lambda header, data: [(header, data)] * (2 if header.name == "q-001.flac" else 1))
        assert faults_of(path) == (["q-000", "q-002"], [(FaultReason.DUPLICATE_MEMBER, "q-001")])

    def test_key_twice_in_a_shard(self, tmp_path):
        write_set(tmp_path / "s", count=3)
        path = without_manifest(tmp_path / "s")
        add_member(path, "q-000.json")
        assert faults_of(path) == (["q-001", "q-002"], [(FaultReason.DUPLICATE_KEY, "q-000")])

    def test_key_twice_in_two_shards(self, tmp_path):
        for name in ("a", "b"):
            write_set(tmp_path / name, count=1)
        both = [str(tmp_path / "a"), str(tmp_path / "b")]
        assert faults_of(both) == (["q-000"], [(FaultReason.DUPLICATE_KEY, "q-000")])

    def test_bad_json(self, tmp_path):
        write_set(tmp_path / "s", count=3)
        path = without_manifest(tmp_path / "s")
        rewrite(path, lambda header, data: [(header, b"{" if header.name == "q-001.json" else data)])
        assert faults_of(path) == (["q-000", "q-002"], [(FaultReason.BAD_JSON, "q-001")])

    def test_not_a_tar(self, tmp_path):
        (tmp_path / "a.tar").write_bytes(b"x" * 2000)
        assert faults_of([tmp_path / "a.tar"]) == ([], [(FaultReason.NOT_A_TAR, None)])
        (tmp_path / "a.tar").write_bytes(b"")
        assert faults_of([tmp_path / "a.tar"]) == ([], [(FaultReason.TRUNCATED, None)])

    def test_shard_lost(self, tmp_path):
        write_set(tmp_path / "s")
        (tmp_path / "s" / "shard-000001.tar").unlink()
        keys, faults = faults_of(tmp_path / "s")
        assert (len(keys), faults) == (4, [(FaultReason.MISSING_FILE, None)])

    def test_shard_not_in_the_manifest(self, tmp_path):
        write_set(tmp_path / "s")
        (tmp_path / "s" / "shard-000009.tar").write_bytes((tmp_path / "s" / "shard-000000.tar").read_bytes())
        keys, faults = faults_of(str(tmp_path / "s" / "*.tar"))
        assert (len(keys), faults) == (7, [(FaultReason.NOT_IN_MANIFEST, None)])


class TestHostile:
    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("../evil.json", FaultReason.FORBIDDEN_NAME),
            ("/avrt-evil.json", FaultReason.FORBIDDEN_NAME),
            ("a/b.json", FaultReason.FORBIDDEN_NAME),
            ("..", FaultReason.FORBIDDEN_NAME),
            (".json", FaultReason.FORBIDDEN_NAME),
            ("q 1.json", FaultReason.FORBIDDEN_NAME),
            ("__meta__", FaultReason.FORBIDDEN_MEMBER),
            ("q-000.pyd", FaultReason.FORBIDDEN_MEMBER),
            ("q-000.pth", FaultReason.FORBIDDEN_MEMBER),
            ("q-000.pickle", FaultReason.FORBIDDEN_MEMBER),
            ("q-000.pkl", FaultReason.FORBIDDEN_MEMBER),
            ("q-000.pt", FaultReason.FORBIDDEN_MEMBER),
            ("q-000.JSON", FaultReason.FORBIDDEN_MEMBER),
            ("q-000.frame00.jpg.pyd", FaultReason.FORBIDDEN_MEMBER),
            ("q-000.frame00.gif", FaultReason.FORBIDDEN_MEMBER),
            ("q-000", FaultReason.FORBIDDEN_MEMBER),
            ("x" * 300 + ".json", FaultReason.FORBIDDEN_TYPE),  # GNU long name
        ],
    )
    def test_member_names(self, tmp_path, name, reason):
        write_set(tmp_path / "s", count=2)
        path = without_manifest(tmp_path / "s")
        add_member(path, name)
        before = sorted(str(entry) for entry in tmp_path.rglob("*"))
        assert faults_of(path) == ([], [(reason, None)])
        assert sorted(str(entry) for entry in tmp_path.rglob("*")) == before
        assert not os.path.exists("/avrt-evil.json")

    @pytest.mark.parametrize(
        "kind",
        [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE],
    )
    def test_member_types(self, tmp_path, kind):
        write_set(tmp_path / "s", count=2)
        path = without_manifest(tmp_path / "s")
        add_member(path, "q-009.json", kind=kind, target="/etc/passwd")
        assert faults_of(path) == ([], [(FaultReason.FORBIDDEN_TYPE, None)])

    def test_pickles_are_never_loaded(self, tmp_path):
        """The member that WebDataset's default decoder would unpickle runs nothing."""
        marker = tmp_path / "marker"

        class Payload:
            def __reduce__(self):
                return (Path.touch, (marker,))

        write_set(tmp_path / "s", count=2)
        path = without_manifest(tmp_path / "s")
        add_member(path, "q-000.pyd", pickle.dumps(Payload()))
        faults_of(path)
        assert not marker.exists()
        # The payload is a live one:
        list(webdataset.WebDataset([str(path)], shardshuffle=False).decode())
        assert marker.exists()

    def test_pipes_are_not_run(self, tmp_path):
        marker = tmp_path / "marker"
        with pytest.raises(ValueError, match="no such folder, file or pattern"):
            list(stream_shards(f"pipe:touch {marker}"))
        with pytest.raises(ValueError, match="no such folder, file or pattern"):
            ShardSet(f"pipe:touch {marker}")
        assert not marker.exists()

    def test_manifest_cannot_point_elsewhere(self, tmp_path):
        write_set(tmp_path / "s")
        path = tmp_path / "s" / MANIFEST_NAME
        path.write_text(path.read_text().replace("shard-000000.tar", "../other/shard-000000.tar"))
        with pytest.raises(ValueError, match="no shard's name"):
            ShardSet(tmp_path / "s")

    @pytest.mark.parametrize("member", ["flac", "frame00.png", "frame00.jpg"])
    def test_media_bombs_behind_right_checksums(self, tmp_path, member):
        if member == "flac":
            buffer = io.BytesIO()
            soundfile.write(buffer, np.zeros(16_000, np.int16), 16_000, format="FLAC")
            data = bytearray(buffer.getvalue())
            # The 36-bit number of samples in STREAMINFO: 2^35, 128 GB as floats.
            data[21] = (data[21] & 0xF0) | 0x8
            data = bytes(data)
        elif member == "frame00.png":
            data = png_bomb(tmp_path / "bomb.png").read_bytes()
        else:
            data = encode_clip(make_clip()).members[member]
            assert data.count(struct.pack(">HH", 32, 48)) == 1
            data = data.replace(struct.pack(">HH", 32, 48), struct.pack(">HH", 65_000, 65_000))
        encoded = encode_clip(make_clip(frames=1), image_format=member[-3:] if member != "flac" else "jpg")
        assert member in encoded.members
        encoded.members[member] = data
        with pytest.raises(RecordError, match="claims"):
            decode_clip(encoded)

    @pytest.mark.parametrize("image_format", ["jpg", "png"])
    @pytest.mark.parametrize("content", [b"", b"x", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"\xff\xd8" + bytes(500)])
    def test_no_picture_behind_a_right_checksum(self, image_format, content):
        encoded = encode_clip(make_clip(), image_format=image_format)
        encoded.members[f"frame00.{image_format}"] = content
        with pytest.raises(RecordError, match="no picture's header"):
            decode_clip(encoded)

    @pytest.mark.parametrize("image_format", ["jpg", "png"])
    def test_torn_picture_behind_a_right_checksum(self, image_format):
        encoded = encode_clip(make_clip(), image_format=image_format)
        name = f"frame00.{image_format}"
        encoded.members[name] = encoded.members[name][:300] if image_format == "jpg" else encoded.members[name][:60]
        with pytest.raises(RecordError, match="bad_media"):
            decode_clip(encoded)

    def test_frames_of_two_sizes(self):
        encoded = encode_clip(make_clip(), image_format="png")
        other = encode_clip(replace(make_clip(), frames=make_clip().frames[..., :8]), image_format="png")
        encoded.members["frame01.png"] = other.members["frame01.png"]
        with pytest.raises(RecordError, match="another size"):
            decode_clip(encoded)

    def test_json_of_wrong_shape_behind_a_right_checksum(self, tmp_path):
        write_set(tmp_path / "s", count=2)
        path = without_manifest(tmp_path / "s")

        def edit(header, data):
            if header.name == "q-001.json":
                record = json.loads(data)
                del record["crc32"]
                record["members"] = [1]
                body = json.dumps(record, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
                data = json.dumps({**record, "crc32": zlib.crc32(body)}).encode()
            return [(header, data)]

        rewrite(path, edit)
        assert faults_of(path) == (["q-000"], [(FaultReason.BAD_JSON, "q-001")])


class TestFingerprint:
    def test_it_follows_the_data(self, tmp_path):
        write_set(tmp_path / "a")
        write_set(tmp_path / "b")
        write_set(tmp_path / "c", count=6)
        a, b, c = (ShardSet(tmp_path / name).fingerprint for name in "abc")
        assert a == b
        assert a != c
        assert len(a) == 64
        assert ShardSet(tmp_path / "a", split="train").fingerprint != a

    def test_it_sees_a_changed_shard(self, tmp_path):
        write_set(tmp_path / "a")
        before = ShardSet(tmp_path / "a").fingerprint
        samples = [make_sample(index) for index in range(7)]
        samples[3] = replace(samples[3], question="another?")
        with ShardWriter(tmp_path / "b", samples_per_shard=3) as writer:
            for sample in samples:
                writer.write(sample)
        assert ShardSet(tmp_path / "b").fingerprint != before


class TestManifestFile:
    @pytest.mark.parametrize(
        ("edit", "message"),
        [
            (lambda text: text[:40], "is damaged"),
            (lambda text: text.replace('"format_version": 1', '"format_version": 99'), "format version 99"),
            (lambda text: text.replace('"samples": 7', '"samples": 8'), "do not add up"),
            (lambda text: text.replace('"sha256"', '"sha257"'), "is damaged"),
        ],
    )
    def test_damaged(self, tmp_path, edit, message):
        write_set(tmp_path / "s")
        path = tmp_path / "s" / MANIFEST_NAME
        path.write_text(edit(path.read_text()))
        with pytest.raises(ValueError, match=message):
            read_manifest(tmp_path / "s")
