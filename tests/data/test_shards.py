"""Shards: deterministic, read back as written, and nothing damaged or hostile gets in."""

import hashlib
import io
import json
import pickle
import tarfile
from dataclasses import replace

import pytest
import soundfile
import torch
import webdataset
from PIL import Image
from torch.utils.data import DataLoader

from avrt.data.manifest import MANIFEST_NAME, read_manifest
from avrt.data.records import decode_clip, encode_clip
from avrt.data.shards import ShardSet
from avrt.data.writer import ShardWriter
from avrt.sample import Clip
from tests.shard_files import contents, make_clip, make_sample, write_set


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
            waveform, rate = soundfile.read(io.BytesIO(group["flac"]))
            assert (rate, len(waveform)) == (16_000, 8_000)

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
        with pytest.raises(ValueError, match=r"shards: .*none-"):
            ShardSet(tmp_path / "s" / "none-*.tar")
        (tmp_path / "empty").mkdir()
        with pytest.raises(ValueError, match=r"manifest\.json"):
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
        with pytest.raises(ValueError, match=r"manifest\.json"):
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
        # Also when the first one is in a shard that is closed already.
        for samples_per_shard in (1, 2):
            with ShardWriter(tmp_path / str(samples_per_shard), samples_per_shard=samples_per_shard) as writer:
                writer.write(make_sample(0))
                with pytest.raises(ValueError, match="'q-000' is written twice"):
                    writer.write(make_sample(0))

    def test_full_disk(self, tmp_path):
        """A file size limit simulates the full disk: writing fails halfway."""
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
            (lambda text: text.replace('"format_version": 2', '"format_version": 99'), "format version 99"),
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
