"""Training data on a real web server: the same samples as from the local folder, each shard fetched once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from avrt.data.manifest import MANIFEST_NAME
from avrt.data.shards import ShardSet
from avrt.storage.shard_cache import ShardCache
from datamodules.sources import SampleSources
from datamodules.streaming import EncodedSamples, FetchAhead
from datamodules.windows import WindowLoader
from tests.lightning_modules.training import fit, sft_data, sft_module, write_shards
from tests.storage.http_server import Files, answer, serve
from tests.tiny_student import load_student


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 samples in 3 shards."""
    return write_shards(tmp_path_factory.mktemp("s"), 12)


@pytest.fixture
def server(folder: Path) -> Iterator[Files]:
    content = {f"set/{path.name}": path.read_bytes() for path in folder.iterdir()}
    with serve(Files(content)) as files:
        yield files


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.tar"))


def test_opening_reads_the_manifest_only(folder: Path, server: Files, tmp_path: Path) -> None:
    remote, local = ShardSet(server.url("set"), cache=ShardCache(tmp_path / "cache")), ShardSet(folder)
    assert {path for _, path, _ in server.requests} == {f"/set/{MANIFEST_NAME}"} or {
        path for _, path, _ in server.requests
    } == {f"set/{MANIFEST_NAME}"}
    assert (remote.keys, remote.sources, remote.fingerprint) == (local.keys, local.sources, local.fingerprint)
    assert remote.metadata(7) == local.metadata(7)
    assert remote.media(7).members == local.media(7).members
    braces = server.url("set/shard-{000000..000002}.tar")
    assert ShardSet(braces, cache=ShardCache(tmp_path / "cache")).fingerprint == local.fingerprint


def test_shards_without_a_manifest(folder: Path, server: Files, tmp_path: Path) -> None:
    del server.content[f"set/{MANIFEST_NAME}"]
    urls = [server.url(f"set/{name}") for name in names(folder)]
    assert ShardSet(urls, cache=ShardCache(tmp_path / "cache")).keys == ShardSet(folder).keys
    with pytest.raises(ValueError, match=r"set: holds no manifest\.json"):
        ShardSet(server.url("set"), cache=ShardCache(tmp_path / "cache"))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_windows_as_from_the_local_folder(
    student_folder: Path, folder: Path, server: Files, tmp_path: Path, workers: int
) -> None:
    encoder = load_student(student_folder).encoder

    def read(shards: ShardSet, workers: int) -> list[str]:
        samples = SampleSources([""], [shards])
        order = samples.order(seed=3, shuffle=True, shuffle_shards=2)
        reader = EncodedSamples(samples, encoder, shards_ahead=2)
        loader = WindowLoader(reader, order, micro_batch_size=2, num_workers=workers)
        return [prompt.sample.id for _ in range(2) for batch in loader for prompt in batch.prompts]

    remote = ShardSet(server.url("set"), cache=ShardCache(tmp_path / "cache"))
    assert read(remote, workers) == read(ShardSet(folder), 0)
    for name in names(folder):
        assert server.sent[f"set/{name}"] == len(server.content[f"set/{name}"]), "fetched once"


def test_shards_are_fetched_ahead(server: Files, tmp_path: Path) -> None:
    samples = SampleSources([""], [ShardSet(server.url("set"), cache=ShardCache(tmp_path / "cache"))])
    parts = [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11], [0]]
    stage = FetchAhead(samples, parts, ahead=1)
    assert [(number, file.location[-10:]) for number, file in stage.uses] == [
        (0, "000000.tar"),
        (2, "000001.tar"),
        (4, "000002.tar"),
        (6, "000000.tar"),  # in the next pass
    ]
    passed = stage(parts)
    next(passed)
    deadline = time.monotonic() + 30
    while not server.sent["set/shard-000001.tar"] and time.monotonic() < deadline:
        time.sleep(0.02)
    assert server.sent["set/shard-000001.tar"], "before it is needed"
    assert not server.sent["set/shard-000002.tar"]
    assert list(passed) == parts[1:]


def test_a_training_run_on_remote_shards(student_folder: Path, folder: Path, server: Files, tmp_path: Path) -> None:
    settings = {"batch_size": 2, "cache_dir": str(tmp_path / "cache"), "cache_gb": 0.1}
    local = fit(sft_module(student_folder), sft_data(folder, batch_size=2), max_steps=2)
    remote = fit(sft_module(student_folder), sft_data(folder, train=server.url("set"), **settings), max_steps=2)
    assert (remote.ids, remote.losses) == (local.ids, local.losses)
    assert len(list((tmp_path / "cache").glob("*.tar"))) > 0


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_that_is_not_there_is_named(student_folder: Path, server: Files, tmp_path: Path, workers: int) -> None:
    server.faults["set/shard-000000.tar"] = [answer(404)] * 20
    samples = SampleSources([""], [ShardSet(server.url("set"), cache=ShardCache(tmp_path / "cache"))])
    reader = EncodedSamples(samples, load_student(student_folder).encoder)
    loader = WindowLoader(
        reader, samples.order(seed=0, shuffle=False, shuffle_shards=2), micro_batch_size=2, num_workers=workers
    )
    with pytest.raises(OSError, match=r"shard-000000\.tar"):
        list(loader)
