"""Opening shards: from the manifest alone, or by one pass over tar files of any maker."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import tarfile
from pathlib import Path

import pytest
import webdataset

from avrt.commands import inspect as inspect_command
from avrt.data.faults import FaultReason, ShardError
from avrt.data.manifest import MANIFEST_NAME, read_manifest
from avrt.data.shards import ShardSet
from avrt.data.tar_members import read_members
from avrt.sample import Sample
from tests.shard_files import write_set


def same(shards: ShardSet, samples: list[Sample]) -> bool:
    by_id = {sample.id: sample for sample in samples}
    return sorted(shards.keys) == sorted(by_id) and all(
        shards[i].question == by_id[key].question and shards.sources[i] == by_id[key].source
        for i, key in enumerate(shards.keys)
    )


def manifest_of(folder: Path) -> dict:
    return json.loads((folder / MANIFEST_NAME).read_bytes())


class TestManifest:
    def test_offsets_are_those_of_the_tar(self, tmp_path):
        write_set(tmp_path / "s")
        for shard in read_manifest(tmp_path / "s").shards:
            with tarfile.open(tmp_path / "s" / shard.name) as tar:
                first: dict[str, int] = {}
                for member in tar:
                    first.setdefault(member.name.partition(".")[0], member.offset)
            assert (shard.keys, shard.offsets) == (list(first), list(first.values()))
        assert read_manifest(tmp_path / "s").shards[1].split_runs == [["train", 1], ["val", 1], ["train", 1]]

    def test_opening_reads_no_shard(self, tmp_path):
        """Files of the right size without content: the set opens, and says what is wrong when a sample is read."""
        samples = write_set(tmp_path / "s")
        before = ShardSet(tmp_path / "s")
        for path in (tmp_path / "s").glob("*.tar"):
            size = path.stat().st_size
            path.write_bytes(b"")
            with open(path, "r+b") as file:
                file.truncate(size)
        shards = ShardSet(tmp_path / "s")
        assert (shards.keys, shards.splits) == ([s.id for s in samples], [s.split for s in samples])
        assert (shards.sources, shards.fingerprint) == ([s.source for s in samples], before.fingerprint)
        with pytest.raises(ShardError, match="q-000"):
            shards[0]

    @pytest.mark.parametrize("change", [-512, 512])
    def test_another_size_is_named_at_once(self, tmp_path, change):
        write_set(tmp_path / "s")
        path = tmp_path / "s" / "shard-000001.tar"
        with open(path, "r+b") as file:
            file.truncate(path.stat().st_size + change)
        with pytest.raises(ShardError, match=r"shard-000001\.tar.*the manifest lists"):
            ShardSet(tmp_path / "s")

    def test_version_1_is_indexed_by_the_tar_files(self, tmp_path):
        samples = write_set(tmp_path / "s")
        before = ShardSet(tmp_path / "s")
        content = manifest_of(tmp_path / "s") | {"format_version": 1}
        for shard in content["shards"]:
            for name in ("keys", "offsets", "sources", "split_runs"):
                del shard[name]
        (tmp_path / "s" / MANIFEST_NAME).write_text(json.dumps(content))
        shards = ShardSet(tmp_path / "s")
        assert same(shards, samples)
        assert (shards.fingerprint, shards.splits) == (before.fingerprint, before.splits)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("keys", ["q-000", "q-001"]),
            ("keys", ["q-000", "q-001", "../x"]),
            ("offsets", [0, 5120, 512]),
            ("offsets", [0, 512, 10**12]),
            ("split_runs", [["train", 2], ["val", 1]]),
            ("split_runs", [["train", 2]]),
            ("sources", ["a", "b", 3]),
        ],
    )
    def test_contradictions(self, tmp_path, name, value):
        write_set(tmp_path / "s")
        content = manifest_of(tmp_path / "s")
        content["shards"][0][name] = value
        (tmp_path / "s" / MANIFEST_NAME).write_text(json.dumps(content))
        with pytest.raises(ValueError, match=r"manifest\.json: is damaged.*shard-000000"):
            ShardSet(tmp_path / "s")

    @pytest.mark.parametrize("offsets", [[0, 512, 1024], [512, 1024, 1536]])
    def test_wrong_offsets_give_no_wrong_sample(self, tmp_path, offsets):
        write_set(tmp_path / "s")
        content = manifest_of(tmp_path / "s")
        content["shards"][0]["offsets"] = offsets
        (tmp_path / "s" / MANIFEST_NAME).write_text(json.dumps(content))
        shards = ShardSet(tmp_path / "s")
        for index in range(3):
            with pytest.raises(ShardError, match=f"q-00{index}"):
                shards[index]
        faults = ShardSet(tmp_path / "s", scan=True, on_error="skip").faults
        assert [fault.reason for fault in faults] == [FaultReason.NOT_IN_MANIFEST]


class TestOtherMakers:
    @pytest.fixture
    def extracted(self, tmp_path) -> tuple[list[Sample], Path]:
        samples = write_set(tmp_path / "s")
        for path in sorted((tmp_path / "s").glob("*.tar")):
            subprocess.run(["tar", "-C", tmp_path / "s", "-xf", path], check=True)
            path.unlink()
        (tmp_path / "s" / MANIFEST_NAME).unlink()
        return samples, tmp_path / "s"

    @pytest.mark.parametrize("form", ["gnu", "pax", "ustar", "v7"])
    @pytest.mark.parametrize("name", [".", "files"])
    def test_tar(self, tmp_path, extracted, form, name):
        samples, folder = extracted
        names = ["."] if name == "." else sorted(path.name for path in folder.iterdir())
        command = ["tar", f"--format={form}", "--sort=name", "-C", folder, "-cf", tmp_path / "a.tar", *names]
        subprocess.run(command, check=True)
        assert same(ShardSet(tmp_path / "a.tar", verify=True), samples)

    @pytest.mark.parametrize("form", ["PAX_FORMAT", "GNU_FORMAT", "USTAR_FORMAT"])
    def test_webdataset(self, tmp_path, form):
        samples = write_set(tmp_path / "s")
        urls = [str(path) for path in sorted((tmp_path / "s").glob("*.tar"))]
        (tmp_path / "t").mkdir()
        pattern = str(tmp_path / "t" / "part-%02d.tar")
        with webdataset.ShardWriter(pattern, maxcount=4, verbose=0, encoder=False, format=form) as writer:
            for group in webdataset.WebDataset(urls, shardshuffle=False):
                writer.write(dict(reversed(group.items())))
        assert same(ShardSet(str(tmp_path / "t" / "*.tar"), verify=True), samples)

    def test_long_names_with_extended_headers(self, tmp_path):
        """PAX headers for times and owners, in front of every member, belong to the sample's bytes."""
        samples = write_set(tmp_path / "s")
        path = tmp_path / "s" / "shard-000000.tar"
        (tmp_path / "s" / MANIFEST_NAME).unlink()
        with tarfile.open(path) as tar:
            members = [(member, tar.extractfile(member).read()) for member in tar]
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
            for member, data in members:
                member.mtime, member.uname = 1.5, "jürgen"
                tar.addfile(member, io.BytesIO(data))
        shards = ShardSet(path)
        assert same(shards, samples[:3])
        assert shards.metadata(1) == ShardSet(path, verify=True).metadata(1)

    def test_files_that_are_not_side_by_side(self, tmp_path, extracted):
        """As `tar` writes a folder in its own order: webdataset would make several samples of one."""
        _, folder = extracted
        names = sorted((path.name for path in folder.iterdir()), key=lambda name: name.partition(".")[2])
        subprocess.run(["tar", "-C", folder, "-cf", tmp_path / "a.tar", *names], check=True)
        with pytest.raises(ShardError, match=r"q-00\d.*--sort=name") as raised:
            ShardSet(tmp_path / "a.tar")
        assert raised.value.reason is FaultReason.DUPLICATE_KEY

    def test_joined_tars(self, tmp_path):
        samples = write_set(tmp_path / "s", count=6)
        paths = [tmp_path / "s" / f"shard-00000{i}.tar" for i in range(2)]
        joined = tmp_path / "cat.tar"
        joined.write_bytes(b"".join(path.read_bytes() for path in paths))
        with pytest.raises(ShardError, match="tar --concatenate") as raised:
            ShardSet(joined)
        assert raised.value.reason is FaultReason.TRAILING_DATA
        subprocess.run(["tar", "--concatenate", "-f", paths[0], paths[1]], check=True)
        (tmp_path / "s" / MANIFEST_NAME).unlink()
        assert same(ShardSet(paths[0], verify=True), samples)


class TestHostileSamples:
    """Shards whose manifest was made for them: nothing is checked at opening, everything when a sample is read."""

    def rewritten(self, folder: Path, change) -> ShardSet:
        """The first sample's bytes replaced; manifest and shard agree on sizes."""
        write_set(folder, count=1)
        path = folder / "shard-000000.tar"
        with tarfile.open(path) as tar:
            members = [(member, tar.extractfile(member).read()) for member in tar]
        data = change(members)
        path.write_bytes(data)
        content = manifest_of(folder)
        content["shards"][0]["bytes"] = len(data)
        (folder / MANIFEST_NAME).write_text(json.dumps(content))
        return ShardSet(folder)

    @staticmethod
    def tar_of(members, *more: tarfile.TarInfo) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for header in more:
                tar.addfile(header)
            for member, data in members:
                tar.addfile(member, io.BytesIO(data))
        return buffer.getvalue()

    @pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
    def test_links_and_devices(self, tmp_path, capsys, kind):
        header = tarfile.TarInfo("q-000.x.json")
        header.type, header.linkname = kind, "/etc/passwd"
        shards = self.rewritten(tmp_path / "s", lambda members: self.tar_of(members, header))
        for read in (lambda: shards[0], lambda: shards.media(0), lambda: shards.record(0)):
            with pytest.raises(ShardError) as raised:
                read()
            assert (raised.value.reason, raised.value.key) == (FaultReason.FORBIDDEN_TYPE, "q-000")
        with pytest.raises(ShardError, match="forbidden_type"):
            ShardSet(tmp_path / "s", scan=True)

    @pytest.mark.parametrize("name", ["../q-000.x", "/q-000.x", "q-000.pyd", "q-000.pth", "q-000.PKL", "q-001.json"])
    def test_names(self, tmp_path, name):
        shards = self.rewritten(tmp_path / "s", lambda members: self.tar_of(members, tarfile.TarInfo(name)))
        with pytest.raises(ShardError, match="q-000"):
            shards[0]

    def test_compressed_bytes_are_not_unpacked(self, tmp_path):
        """Behind a first block that is also a valid tar header, as far as its checksum goes."""
        shards = self.rewritten(tmp_path / "s", lambda members: gzip.compress(self.tar_of(members)))
        with pytest.raises(ShardError, match="compressed"):
            shards[0]

    def test_sparse_files_claim_nothing(self, tmp_path):
        """A kilobyte that webdataset's iterator would read as 64 GB of zeros."""

        def change(members):
            header = tarfile.TarInfo("q-000.zero.json")
            header.pax_headers = {
                "GNU.sparse.map": "0,0",
                "GNU.sparse.realsize": str(2**36),
                "GNU.sparse.size": str(2**36),
            }
            return self.tar_of(members, header)

        shards = self.rewritten(tmp_path / "s", change)
        with pytest.raises(ShardError, match="not a regular file"):
            shards[0]

    def test_negative_sizes_end(self, tmp_path):
        """tarfile of older Pythons reads such a header again and again."""

        def change(members):
            data = bytearray(self.tar_of(members))
            header = bytearray(data[:512])
            header[124:136] = b"\xff" * 11 + bytes([0])
            header[148:156] = b" " * 8
            header[148:156] = b"%06o\0 " % sum(header)
            return bytes(header) + bytes(data)

        shards = self.rewritten(tmp_path / "s", change)
        with pytest.raises(ShardError):
            shards[0]
        with pytest.raises(ShardError):
            ShardSet(tmp_path / "s", scan=True)

    def test_a_thousand_headers_in_one_another(self, tmp_path):
        block = bytearray(tarfile.TarInfo("x").tobuf(tarfile.USTAR_FORMAT))
        block[156:157] = tarfile.XHDTYPE
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
        shards = self.rewritten(tmp_path / "s", lambda members: bytes(block) * 3000 + self.tar_of(members))
        with pytest.raises(ShardError, match="no tar header"):
            shards[0]

    def test_inspect_reports_what_opening_does_not_see(self, tmp_path, capsys):
        write_set(tmp_path / "s")
        path = tmp_path / "s" / "shard-000001.tar"
        data = bytearray(path.read_bytes())
        data[data.index(b"q-004.json") + 20] ^= 1
        path.write_bytes(data)
        assert len(ShardSet(tmp_path / "s")) == 7
        import argparse

        parser = argparse.ArgumentParser()
        inspect_command.add_arguments(parser)
        assert inspect_command.run(parser.parse_args([str(tmp_path / "s")])) == 1
        assert "shard-000001.tar: not_a_tar" in capsys.readouterr().out.replace("\n", "")


def test_one_sample_only(tmp_path):
    write_set(tmp_path / "s", count=2)
    data = (tmp_path / "s" / "shard-000000.tar").read_bytes()
    with pytest.raises(ShardError, match="one sample was expected"):
        read_members(data, "a.tar")


@pytest.mark.parametrize("name", ["pickled.tar", "pth.tar"])
def test_pickles_of_others(real_data, name):
    path = real_data.parent / "cases" / "23-shards" / name
    if not path.exists():
        pytest.skip(f"{path} is not here")
    with pytest.raises(ShardError, match="pickle") as raised:
        ShardSet(path)
    assert raised.value.reason is FaultReason.FORBIDDEN_MEMBER
