"""The fingerprint of a set of shards follows the content of its files, whatever manifest and sizes say."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import pytest

from avrt.data.faults import ShardError
from avrt.data.manifest import MANIFEST_NAME, read_manifest
from avrt.data.records import JSON_MEMBER
from avrt.data.shards import ShardSet
from avrt.storage.shard_cache import ShardCache
from tests.shard_files import swap_case_of_traces, write_set
from tests.storage.http_server import Files, serve


@pytest.mark.parametrize("manifest", ["as written", "older", "version 1", "none"])
def test_changed_traces_of_equal_size_are_seen(tmp_path: Path, manifest: str) -> None:
    write_set(tmp_path)
    edit_manifest(tmp_path, manifest)
    before = ShardSet(shards_in(tmp_path)).fingerprint
    assert ShardSet(shards_in(tmp_path)).fingerprint == before
    swap_case_of_traces(tmp_path / "shard-000001.tar")
    changed = ShardSet(shards_in(tmp_path))
    assert changed.fingerprint != before
    kept = [key for key in changed.keys if not changed.location(changed.keys.index(key)).endswith("1.tar")]
    assert len(kept) == 4
    part = changed.subset(kept).fingerprint
    swap_case_of_traces(tmp_path / "shard-000000.tar")
    assert ShardSet(shards_in(tmp_path)).subset(kept).fingerprint != part


def shards_in(folder: Path) -> Any:
    return folder if (folder / MANIFEST_NAME).exists() else str(folder / "*.tar")


def edit_manifest(folder: Path, kind: str) -> None:
    content = json.loads((folder / MANIFEST_NAME).read_bytes())
    removed = {
        "as written": [],
        "older": ["checksums"],
        "version 1": ["keys", "offsets", "sources", "split_runs", "checksums"],
    }
    if kind == "none":
        (folder / MANIFEST_NAME).unlink()
        return
    for shard in content["shards"]:
        for name in removed[kind]:
            del shard[name]
    content["format_version"] = 1 if kind == "version 1" else 2
    (folder / MANIFEST_NAME).write_text(json.dumps(content))


def test_the_same_set_has_one_fingerprint_with_any_manifest_and_place(tmp_path: Path) -> None:
    write_set(tmp_path / "set")
    found = {}
    for kind in ("as written", "older", "version 1"):
        edit_manifest(tmp_path / "set", kind)
        found[kind] = ShardSet(tmp_path / "set").fingerprint
        write_set(tmp_path / "set", overwrite=True)
    assert len(set(found.values())) == 1
    with serve(Files({f"set/{path.name}": path.read_bytes() for path in (tmp_path / "set").iterdir()})) as server:
        remote = ShardSet(server.url("set"), cache=ShardCache(tmp_path / "cache"))
        assert remote.fingerprint == found["older"]
        assert not (tmp_path / "cache").exists(), "no shard is fetched for it"


def test_the_manifest_states_checksums_of_the_texts(tmp_path: Path) -> None:
    write_set(tmp_path)
    shards = ShardSet(tmp_path)
    stated = [number for shard in read_manifest(tmp_path).shards for number in shard.checksums]
    assert stated == [zlib.crc32(shards.members(index)[JSON_MEMBER]) for index in range(7)]


def test_a_smaller_shard_beside_its_old_manifest_is_refused(tmp_path: Path) -> None:
    for kind in ("as written", "version 1"):
        write_set(tmp_path / "set", overwrite=True)
        write_set(tmp_path / "small", count=1, overwrite=True)
        (tmp_path / "small" / "shard-000000.tar").rename(tmp_path / "set" / "shard-000001.tar")
        edit_manifest(tmp_path / "set", kind)
        with pytest.raises(ShardError, match=r"shard-000001\.tar.*the manifest lists"):
            ShardSet(tmp_path / "set")


def test_the_number_of_samples_is_compared_with_a_manifest_that_does_not_list_them(tmp_path: Path) -> None:
    write_set(tmp_path)
    content = json.loads((tmp_path / MANIFEST_NAME).read_bytes())
    for shard in content["shards"]:
        for name in ("keys", "offsets", "sources", "split_runs", "checksums"):
            del shard[name]
    content["shards"][0] |= {"samples": 4, "splits": {"train": 4}}
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(content | {"samples": 8, "format_version": 1}))
    with pytest.raises(ShardError, match=r"shard-000000\.tar.*the manifest lists other samples"):
        ShardSet(tmp_path)


def test_unreadable_samples_have_a_fingerprint_too(tmp_path: Path) -> None:
    """Whether damage ends a run is decided where samples are read."""
    write_set(tmp_path)
    before = ShardSet(tmp_path).fingerprint
    shard = tmp_path / "shard-000000.tar"
    shard.write_bytes(bytes(shard.stat().st_size))
    assert ShardSet(tmp_path).fingerprint != before
