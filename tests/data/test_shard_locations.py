"""Shards at URLs: what their addresses hold is in no message, and their manifests are found."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from avrt.data.faults import FaultReason, ShardError
from avrt.data.shard_questions import read_shards
from avrt.data.shards import ShardSet
from avrt.evaluation.question_sets import QuestionsConfig, open_question_sets
from avrt.storage.shard_cache import ShardCache
from tests.shard_files import write_set
from tests.storage.http_server import Files, answer, serve

SIGNED = "?path=a/b&signature=SECRET"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Files]:
    write_set(tmp_path / "set")
    with serve(Files({f"set/{path.name}": path.read_bytes() for path in (tmp_path / "set").iterdir()})) as files:
        yield files


def test_a_manifest_beside_a_signed_url(server: Files, tmp_path: Path) -> None:
    """A set resumes after its URLs are signed anew, so neither names nor fingerprint have the signature."""
    local, cache = ShardSet(tmp_path / "set"), ShardCache(tmp_path / "cache")
    shards = ShardSet(server.url("set/shard-{000000..000002}.tar") + SIGNED, cache=cache)
    assert shards.fingerprint == local.fingerprint
    assert [file.sha256 for file in shards.files] == [file.sha256 for file in local.files]
    assert shards[3].id == local.keys[3]


def test_a_manifest_that_may_not_be_read(server: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A signature is good for one file; and S3 refuses what is missing to those who may not list a folder."""
    server.faults["set/manifest.json"] = [answer(403)] * 9
    shards = ShardSet(server.url("set/shard-000000.tar"), cache=ShardCache(tmp_path / "cache"))
    assert shards.keys == ShardSet(tmp_path / "set/shard-000000.tar").keys
    assert "without their checksums" in caplog.text


def test_secrets_of_urls_are_in_no_message(server: Files, tmp_path: Path) -> None:
    cache, secret = ShardCache(tmp_path / "cache"), server.url("set").replace("://", "://user:SECRET@") + SIGNED
    server.content["set/manifest.json"] = b"{"
    with pytest.raises(ValueError, match="damaged") as damaged:
        ShardSet(secret, cache=cache)
    del server.content["set/manifest.json"]
    with pytest.raises(ValueError, match="not a finished set") as missing:
        ShardSet(secret, cache=cache)
    with pytest.raises(ValueError, match="no sample of split") as split:
        ShardSet(secret.replace("set?", "set/shard-000000.tar?"), split="none", cache=cache)
    with pytest.raises(ValueError, match="packed already") as packed:
        read_shards([secret.replace("set?", "set/shard-000000.tar?")], cache, show_progress=False)
    fault = ShardError(secret, FaultReason.CHECKSUM, "", "k")
    assert "SECRET" not in "".join(
        str(error) for error in (damaged.value, missing.value, split.value, packed.value, fault)
    )


def test_what_is_wrong_with_the_cache_is_no_fault_of_a_sample(server: Files, tmp_path: Path) -> None:
    """Fetching ahead leaves it to the reader too, and waits for other shards."""
    small = ShardSet(server.url("set"), cache=ShardCache(tmp_path / "cache", 1000))
    for read in (small.members, small.metadata, small.record, small.media):
        with pytest.raises(ValueError, match=r"shard-000000.tar: has \d+ bytes.*raise cache_gb") as raised:
            read(0)
        assert not isinstance(raised.value, ShardError)
    small.cache.fetch_ahead(small.files)
    time.sleep(0.5)
    names = [thread.name for thread in threading.enumerate()]
    small.cache.fetch_ahead([])
    assert "shard-cache" in names


def test_shards_in_a_cache_that_another_process_empties(server: Files, tmp_path: Path) -> None:
    """The copy may be gone between its transfer and its opening."""
    cache = EmptiedCache(tmp_path / "cache")
    urls = [server.url(f"set/shard-{number:06d}.tar") for number in range(2)]
    assert len(ShardSet(urls, cache=cache, scan=True)) == 6
    with pytest.raises(ValueError, match="packed already"):
        read_shards(urls, cache, show_progress=False)


class EmptiedCache(ShardCache):
    """Every other copy is removed as soon as its path is known."""

    removed = 0

    def local_path(self, shard):  # type: ignore[no-untyped-def]
        path = super().local_path(shard)
        self.removed += 1
        if self.removed % 2:
            path.unlink()
        return path


def test_records_of_an_evaluation_have_no_secrets(
    server: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AVRT_CACHE", str(tmp_path / "cache"))
    (questions,) = open_question_sets(QuestionsConfig(benchmarks="mine", shards=server.url("set") + SIGNED))
    assert "SECRET" not in str([item.media for item in questions.items])
