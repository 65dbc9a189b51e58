"""`pack` and `traces` writing to an S3 server: the same bytes as locally, also after kills."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from avrt.cli import main
from avrt.data import packing
from avrt.data.manifest import MANIFEST_NAME
from avrt.data.packing import LEFT_OUT_NAME
from avrt.files.folder_lock import FolderInUseError
from avrt.storage.uploads import RemoteFolder
from avrt.traces import finalize as finalize_module
from avrt.traces import pipeline
from avrt.traces.pipeline import run_traces
from tests.data.test_packing import as_avqa, pack, questions
from tests.media_files import as_int16, numbered_frame, tone, write_video
from tests.servers.scripted_server import ScriptedServer
from tests.traces.question_set import answer, make_config, write_shards

CLIPS = 6
SHARDS = 4


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for clip in range(CLIPS):
        frames = [numbered_frame(100 * clip + i) for i in range(20)]
        sound = as_int16(tone(200 + 20 * clip, 2, 16_000))
        write_video(folder / f"-clip_{clip:02d}.mp4", frames, audio=sound, audio_codec="aac")
    return folder


@pytest.fixture(scope="module")
def packed(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a local run."""
    out = tmp_path_factory.mktemp("packed")
    pack(questions(CLIPS), videos, out, samples_per_shard=3)
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}


def stored(location: str) -> dict[str, bytes]:
    """The files of a remote folder, by name."""
    fs = fsspec.filesystem("s3", use_listings_cache=False)
    root = location.removeprefix("s3://")
    return {path.removeprefix(f"{root}/"): fs.cat_file(path) for path in fs.find(root)}


@pytest.fixture
def uploads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The number of uploads of each file."""
    counts: Counter[str] = Counter()
    kind = fsspec.get_filesystem_class("s3")
    put = kind._put_file

    async def counted(self: object, local: str, remote: str, **kwargs: object) -> None:
        counts[Path(remote).name] += 1
        await put(self, local, remote, **kwargs)

    monkeypatch.setattr(kind, "_put_file", counted)
    kind.clear_instance_cache()  # objects hold the methods of their class
    return counts


def test_pack_writes_to_object_storage(
    bucket: str, videos: Path, packed: dict[str, bytes], uploads: Counter[str]
) -> None:
    out = f"{bucket}/sets/avqa"
    report = pack(questions(CLIPS), videos, out, samples_per_shard=3)
    assert stored(out) == packed
    assert len(report.manifest.shards) == SHARDS
    assert not list(RemoteFolder(out).folder.glob("*.tar")), "uploaded shards stay on the local disk"
    assert pack(questions(CLIPS), videos, out, samples_per_shard=3).resumed_shards == SHARDS
    # One question less than two groups: shards that are no longer in the set go.
    pack(questions(CLIPS)[:5], videos, out, samples_per_shard=3)
    assert sorted(stored(out)) == [LEFT_OUT_NAME, MANIFEST_NAME, "shard-000000.tar", "shard-000001.tar"]
    assert uploads["shard-000000.tar"] == 1
    assert uploads["shard-000001.tar"] == 2
    with pytest.raises(ValueError, match=rf"{out}: began with other settings"):
        pack(questions(CLIPS), videos, out, samples_per_shard=2)


def test_a_shard_that_was_not_uploaded_is_uploaded_by_the_next_run(
    bucket: str, videos: Path, packed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill between packing and upload, while an older shard of the same size is there."""
    out, name = f"{bucket}/avqa", "shard-000000.tar"

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RemoteFolder, "publish", killed)
        with pytest.raises(KeyboardInterrupt):
            pack(questions(CLIPS), videos, out, samples_per_shard=3, workers=1)
    fsspec.filesystem("s3").pipe_file(f"{out}/{name}", bytes(len(packed[name])))
    assert pack(questions(CLIPS), videos, out, samples_per_shard=3).resumed_shards >= 1
    assert stored(out) == packed


def test_shards_of_others_are_not_replaced(bucket: str, videos: Path) -> None:
    with fsspec.open(f"{bucket}/mine/shard-000000.tar", "wb") as file:
        file.write(b"mine")
    with pytest.raises(ValueError, match=rf"{bucket}/mine: already holds shards"):
        pack(questions(CLIPS), videos, f"{bucket}/mine", samples_per_shard=3)
    assert stored(f"{bucket}/mine") == {"shard-000000.tar": b"mine"}


def test_a_second_pack_on_this_machine_is_refused(bucket: str, videos: Path) -> None:
    with RemoteFolder(f"{bucket}/x").lock("pack"), pytest.raises(FolderInUseError, match="pack"):
        pack(questions(CLIPS), videos, f"{bucket}/x")


def test_a_folder_that_cannot_be_written_is_named_at_once(
    bucket: str, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: object) -> None:
        raise AssertionError("work began")

    monkeypatch.setattr(packing, "make_groups", never)
    monkeypatch.setattr(pipeline, "_run_one", never)
    with pytest.raises(OSError, match="none") as raised:
        pack(questions(CLIPS), videos, f"{bucket}-none/x", samples_per_shard=3)
    assert f"{bucket}-none/x" in str(raised.value)
    config = make_config(write_shards(tmp_path / "shards", 4), tmp_path, "http://127.0.0.1:9")
    with pytest.raises(OSError, match="none"):
        run_traces(replace(config, output=f"{bucket}-none/x"))


@pytest.mark.slow
def test_killed_packs_resume(bucket: str, videos: Path, packed: dict[str, bytes], tmp_path: Path) -> None:
    annotations, out = tmp_path / "a.json", f"{bucket}/avqa"
    annotations.write_text(json.dumps(as_avqa(questions(CLIPS))))
    words = ["pack", "--annotations", str(annotations), "--videos", str(videos), "--out", out]
    words += ["--samples-per-shard", "3", "--workers", "1"]
    moments = random.Random(3)
    seen = 0
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-m", "avrt", *words], stdout=subprocess.DEVNULL)
        while process.poll() is None and len(RemoteFolder(out).names()) <= seen:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.05))
        process.kill()
        process.wait()
        found = stored(out)
        seen = len(found)
        assert all(packed[name] == content for name, content in found.items()), "a partial file is visible"
    assert main(words) == 0
    assert stored(out) == packed


def test_traces_are_written_to_object_storage(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uploads: Counter[str]
) -> None:
    shards = write_shards(tmp_path / "shards", 40)
    with ScriptedServer(answer) as server:
        local = replace(make_config(shards, tmp_path, server.url), samples_per_shard=8)
        run_traces(local)
    expected = {
        str(path.relative_to(local.output)): path.read_bytes()
        for path in Path(local.output).rglob("*.*")
        if path.is_file()
    }
    remote = replace(local, output=f"{bucket}/traces")
    write_manifest = finalize_module.write_manifest

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(finalize_module, "write_manifest", killed)
    with pytest.raises(KeyboardInterrupt):
        run_traces(remote, steps=["write"])
    found = stored(remote.output)
    assert found
    assert MANIFEST_NAME not in {Path(name).name for name in found}
    before = uploads.total()
    monkeypatch.setattr(finalize_module, "write_manifest", write_manifest)
    run_traces(remote, steps=["write"])
    assert stored(remote.output) == expected
    assert uploads.total() - before == len(expected) - len(found), "a shard was uploaded again"
    run_traces(remote, steps=["write"])
    assert uploads.total() - before == len(expected) - len(found) + 1, "more than the statistics was written again"
    # Other settings, with fewer shards, replace everything; the folder then has nothing of the earlier output.
    run_traces(replace(local, output=str(tmp_path / "other"), split_seed=5, samples_per_shard=16), steps=["write"])
    run_traces(replace(remote, split_seed=5, samples_per_shard=16), steps=["write"])
    other = {str(p.relative_to(tmp_path / "other")): p.read_bytes() for p in (tmp_path / "other").rglob("*.*")}
    assert stored(remote.output) == {name: content for name, content in other.items() if not name.startswith(".")}
    with pytest.raises(ValueError, match="contains the input"):
        run_traces(replace(remote, shards=f"{bucket}/traces/train"), steps=["write"])
    assert os.environ["AVRT_CACHE"] in str(RemoteFolder(remote.output).folder)
