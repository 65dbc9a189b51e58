"""Listing, reading and writing on a real S3 server."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
from pathlib import Path

import fsspec
import pytest
from torch.utils.data import DataLoader, Dataset

from avrt.storage import transfers, uploads
from avrt.storage.locations import expand, is_folder, join, read_bytes
from avrt.storage.shard_cache import ShardCache, ShardFile
from avrt.storage.transfers import Retries, download, file_info
from avrt.storage.uploads import RemoteFolder, output_folder
from tests.storage.broken_proxy import proxy_to

CONTENT = random.Random(1).randbytes(3_000_000)
QUICK = Retries(attempts=2, first_wait_seconds=0.01)


def put(location: str, content: bytes = CONTENT) -> None:
    with fsspec.open(location, "wb") as file:
        file.write(content)


def test_patterns_are_listed(bucket: str) -> None:
    for name in ("b/shard-000001.tar", "b/shard-000000.tar", "b/notes.txt", "c/d/shard-000002.tar"):
        put(f"{bucket}/{name}", b"x")
    assert expand(f"{bucket}/b/*.tar") == [f"{bucket}/b/shard-000000.tar", f"{bucket}/b/shard-000001.tar"]
    assert expand(f"{bucket}/**/*.tar")[-1] == f"{bucket}/c/d/shard-000002.tar"
    assert expand(f"{bucket}/b/shard-{{000000..000002}}.tar")[2] == f"{bucket}/b/shard-000002.tar"
    with pytest.raises(ValueError, match="no file matches"):
        expand(f"{bucket}/b/*.zip")
    # A listing is not remembered: another process may have added the file.
    put(f"{bucket}/b/shard-000002.tar", b"x")
    assert len(expand(f"{bucket}/b/*.tar")) == 3
    assert [is_folder(f"{bucket}/{name}") for name in ("b", "b/shard-000000.tar", "b/notes.txt")] == [
        True,
        False,
        False,
    ]


def test_files_are_read(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(f"{bucket}/a/x.tar")
    assert read_bytes(f"{bucket}/a/x.tar") == CONTENT
    info = file_info(f"{bucket}/a/x.tar")
    assert info.bytes == len(CONTENT)
    assert info.version
    monkeypatch.setattr(transfers, "RANGE_BYTES", 1_000_001)
    (tmp_path / "x").write_bytes(CONTENT[:1234])
    assert download(f"{bucket}/a/x.tar", tmp_path / "x", len(CONTENT)) == hashlib.sha256(CONTENT).hexdigest()
    assert (tmp_path / "x").read_bytes() == CONTENT


@pytest.mark.parametrize("place", ["a/none.tar", "none/none.tar"])
def test_what_is_missing_is_named(bucket: str, place: str) -> None:
    with pytest.raises(FileNotFoundError) as raised:
        read_bytes(f"{bucket}/{place}", QUICK)
    assert raised.value.filename == f"{bucket}/{place}"
    with pytest.raises(FileNotFoundError):
        read_bytes(f"{bucket}-none/{place}", QUICK)


def test_missing_credentials_are_said_at_once(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", "/nonexistent")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(OSError, match="credentials") as raised:
        read_bytes(f"{bucket}/x", Retries(attempts=99))
    assert raised.value.filename == f"{bucket}/x"
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def test_broken_connections_are_survived(
    bucket: str, s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More of them than the S3 library tries by itself."""
    put(f"{bucket}/x.tar")
    retries = Retries(attempts=4, first_wait_seconds=0.01, longest_wait_seconds=0.1)
    with proxy_to(s3_server) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
        kind = fsspec.get_filesystem_class("s3")
        monkeypatch.setattr(kind, "retries", 1)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        kind.clear_instance_cache()
        proxy.cuts = [100_000, 200, 0]
        cache = ShardCache(tmp_path, retries=retries)
        path = cache.local_path(ShardFile(f"{bucket}/x.tar", len(CONTENT), hashlib.sha256(CONTENT).hexdigest()))
        assert path.read_bytes() == CONTENT
        assert len(proxy.done) == 3
        kind.clear_instance_cache()
        proxy.cuts = [0, 0]
        out = RemoteFolder(f"{bucket}/sets", retries)
        out.folder.mkdir(parents=True)
        (out.folder / "shard-000000.tar").write_bytes(CONTENT)
        out.publish("shard-000000.tar")
        assert len(proxy.done) == 5
        assert read_bytes(f"{bucket}/sets/shard-000000.tar") == CONTENT
        kind.clear_instance_cache()
        proxy.cuts = [0] * 99
        with pytest.raises(OSError, match="4 times in a row") as raised:
            read_bytes(f"{bucket}/x.tar", retries)
        assert raised.value.filename == f"{bucket}/x.tar"
    kind.clear_instance_cache()


class Shards(Dataset):
    """Shards of a cache, read whole."""

    def __init__(self, cache: ShardCache, shards: list[ShardFile]) -> None:
        self.cache = cache
        self.shards = shards

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, index: int) -> str:
        self.cache.fetch_ahead(self.shards[index + 1 : index + 3])
        with self.cache.open(self.shards[index]) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_data_workers_share_a_cache(bucket: str, tmp_path: Path, start: str) -> None:
    contents = [CONTENT[number:] for number in range(5)]
    shards = [ShardFile(f"{bucket}/shard-{number:06d}.tar") for number in range(5)]
    for shard, content in zip(shards, contents, strict=True):
        put(shard.location, content)
    data = Shards(ShardCache(tmp_path), shards)
    assert data[0] == hashlib.sha256(contents[0]).hexdigest()  # the parent uses it first
    loader = DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context=start, persistent_workers=True)
    for _ in range(2):
        assert list(loader) == [hashlib.sha256(content).hexdigest() for content in contents]
    assert len(list(tmp_path.glob("*.tar"))) == 5


def test_a_forked_worker_reads_after_its_parent(bucket: str, tmp_path: Path) -> None:
    """As the data workers do: fsspec's event loop of the parent does not exist in the child."""
    put(f"{bucket}/x.tar")
    put(f"{bucket}/y.tar", CONTENT[:100_000])
    cache = ShardCache(tmp_path)
    cache.local_path(ShardFile(f"{bucket}/x.tar"))
    cache.fetch_ahead([ShardFile(f"{bucket}/y.tar")])

    def worker() -> None:
        found = cache.local_path(ShardFile(f"{bucket}/y.tar")).read_bytes() == CONTENT[:100_000]
        os._exit(0 if found and read_bytes(f"{bucket}/x.tar") == CONTENT else 1)

    children = [multiprocessing.get_context("fork").Process(target=worker) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(30)
    assert [child.exitcode for child in children] == [0, 0]


def test_published_files_are_those_of_the_last_call(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out = output_folder(f"{bucket}/sets/train/")
    assert isinstance(out, RemoteFolder)
    assert out.names() == {}
    name = "shard-000000.tar"
    out.folder.mkdir(parents=True)

    def publish(content: bytes) -> None:
        (out.folder / name).write_bytes(content)
        out.publish(name, hashlib.sha256(content).hexdigest())
        assert not (out.folder / name).exists()

    publish(CONTENT)
    assert out.names() == {name: len(CONTENT)}
    with monkeypatch.context() as patch:
        patch.setattr(uploads, "write_atomic", killed)
        with pytest.raises(KeyboardInterrupt):
            publish(CONTENT[::-1])
    assert read_bytes(join(out.url, name)) == CONTENT[::-1], "of the same size, but another file"
    # The first file was uploaded before, but it is no longer what is there.
    publish(CONTENT)
    assert read_bytes(join(out.url, name)) == CONTENT
    for _ in range(2):
        out.remove(name)
    assert out.names() == {}


def killed(*args: object) -> None:
    """Simulates a kill, between an upload and its record."""
    raise KeyboardInterrupt


def test_a_web_server_is_not_written_to() -> None:
    with pytest.raises(ValueError, match="cannot be written"):
        output_folder("https://user:pass-word@host/x")
