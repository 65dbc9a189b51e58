"""Damaged and hostile shards: everything is noticed, nothing partial comes out, nothing is run or written."""

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

from avrt.data.faults import FaultReason, ShardError
from avrt.data.manifest import MANIFEST_NAME
from avrt.data.records import RecordError, decode_clip, encode_clip
from avrt.data.shards import ShardSet
from tests.media_files import png_bomb
from tests.shard_files import make_clip, write_set


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
    """Keys left and faults found under `skip`; and that `raise` raises the first."""
    found = ShardSet(shards, on_error="skip", **options)
    for index in range(len(found)):
        assert found[index].id == found.keys[index]
    faults = [(fault.reason, fault.key) for fault in found.faults]
    with pytest.raises(ShardError) as caught:
        ShardSet(shards, **options)
    assert (caught.value.reason, caught.value.key) == faults[0]
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
            ("x" * 300 + ".json", FaultReason.FORBIDDEN_NAME),  # GNU long name
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
        [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE],
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
        with pytest.raises(ValueError, match="shards: pipe:touch"):
            ShardSet(f"pipe:touch {marker}")
        assert not marker.exists()

    def test_manifest_cannot_point_elsewhere(self, tmp_path):
        write_set(tmp_path / "s")
        path = tmp_path / "s" / MANIFEST_NAME
        path.write_text(path.read_text().replace("shard-000000.tar", "../other/shard-000000.tar"))
        with pytest.raises(ValueError, match="other/shard-000000"):
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

    def test_many_large_frames_behind_right_checksums(self):
        """Each frame is within the limit; together they ask for 1 GB."""
        encoded = encode_clip(make_clip(frames=5))
        for number in range(5):
            data = encoded.members[f"frame{number:02d}.jpg"]
            size = struct.pack(">HH", 8192, 8192)
            encoded.members[f"frame{number:02d}.jpg"] = data.replace(struct.pack(">HH", 32, 48), size)
        with pytest.raises(RecordError, match="5 frames claim 335,544,320 pixels"):
            decode_clip(encoded)

    @pytest.mark.parametrize("image_format", ["jpg", "png"])
    @pytest.mark.parametrize("content", [b"", b"x", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"\xff\xd8" + bytes(500)])
    def test_no_image_behind_a_right_checksum(self, image_format, content):
        encoded = encode_clip(make_clip(), image_format=image_format)
        encoded.members[f"frame00.{image_format}"] = content
        with pytest.raises(RecordError, match=r"frame00.*header"):
            decode_clip(encoded)

    @pytest.mark.parametrize("image_format", ["jpg", "png"])
    def test_truncated_image_behind_a_right_checksum(self, image_format):
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
