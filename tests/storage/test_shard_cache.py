"""The cache of remote shards: contents, bound, faults, processes and kills."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from avrt.files.cache_root import CACHE_VARIABLE
from avrt.storage import shard_cache
from avrt.storage.shard_cache import ShardCache, ShardFile
from avrt.storage.transfers import Retries
from tests.storage.http_server import Files, Handler, answer, end_after, serve, wrong_bytes

ROOT = Path(__file__).resolve().parents[2]
SIZE = 300_000
CONTENT = {f"shard-{number:06d}.tar": random.Random(number).randbytes(SIZE) for number in range(6)}
QUICK = Retries(attempts=3, timeout_seconds=2.0, first_wait_seconds=0.01, longest_wait_seconds=0.1)


@pytest.fixture
def files() -> Iterator[Files]:
    with serve(Files(dict(CONTENT))) as files:
        yield files


def shard(files: Files, number: int, *, listed: bool = True) -> ShardFile:
    name = f"shard-{number:06d}.tar"
    content = CONTENT[name]
    if not listed:
        return ShardFile(files.url(name))
    return ShardFile(files.url(name), len(content), hashlib.sha256(content).hexdigest())


def content(number: int) -> bytes:
    return CONTENT[f"shard-{number:06d}.tar"]


def gets(files: Files) -> int:
    return sum(method == "GET" for method, _, _ in files.requests)


def used_bytes(folder: Path) -> int:
    """Bytes of all files in a cache; a file may go while we look."""
    total = 0
    for path in folder.glob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total


def test_a_shard_is_fetched_once_and_kept(files: Files, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "cache", 10 * SIZE, QUICK)
    path = cache.local_path(shard(files, 0))
    assert path.read_bytes() == content(0)
    assert cache.local_path(shard(files, 0)) == path
    again = pickle.loads(pickle.dumps(cache))
    assert again.local_path(shard(files, 0)) == path
    assert gets(files) == 1
    assert [name.name for name in (tmp_path / "cache").iterdir()] == [path.name]


def test_a_local_shard_stays_where_it_is(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "cache")
    assert cache.local_path(ShardFile("file:///a/b.tar")) == Path("/a/b.tar")
    assert cache.local_path(ShardFile("c.tar", 1, "0" * 64)) == Path("c.tar")
    assert not (tmp_path / "cache").exists()


def test_the_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    assert ShardCache().folder == tmp_path / "shards"


def test_local_shards_need_no_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise ValueError("there is no home folder")

    monkeypatch.setattr(shard_cache, "cache_root", no_home)
    assert ShardCache().local_path(ShardFile("c.tar")) == Path("c.tar")
    with pytest.raises(ValueError, match="home"):
        ShardCache().local_path(ShardFile("s3://bucket/c.tar", 1, "0" * 64))


def test_a_truncated_copy_is_fetched_again(files: Files, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 10 * SIZE, QUICK)
    os.truncate(cache.local_path(shard(files, 0)), 1000)
    assert cache.local_path(shard(files, 0)).read_bytes() == content(0)


def test_a_clock_that_was_set_back_blocks_nothing(files: Files, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, SIZE, QUICK)
    os.utime(cache.local_path(shard(files, 0)), (time.time() + 9999,) * 2)
    assert cache.local_path(shard(files, 1)).read_bytes() == content(1)


def test_an_unlisted_shard_is_fetched_again_when_it_changes(files: Files, tmp_path: Path) -> None:
    first = ShardCache(tmp_path, 10 * SIZE, QUICK).local_path(shard(files, 0, listed=False))
    assert ShardCache(tmp_path, 10 * SIZE, QUICK).local_path(shard(files, 0, listed=False)) == first
    assert gets(files) == 1
    files.content["shard-000000.tar"], files.etag = content(1), '"2"'
    assert ShardCache(tmp_path, 10 * SIZE, QUICK).local_path(shard(files, 0, listed=False)).read_bytes() == content(1)


def test_wrong_bytes_are_fetched_once_more(files: Files, tmp_path: Path) -> None:
    files.faults["shard-000000.tar"] = [wrong_bytes]
    assert ShardCache(tmp_path, 10 * SIZE, QUICK).local_path(shard(files, 0)).read_bytes() == content(0)
    assert gets(files) == 2


def test_lasting_wrong_bytes_are_an_error_and_not_kept(files: Files, tmp_path: Path) -> None:
    files.content["shard-000000.tar"] = content(1)
    with pytest.raises(ValueError, match=r"shard-000000.tar.*SHA-256"):
        ShardCache(tmp_path, 10 * SIZE, QUICK).local_path(shard(files, 0))
    assert gets(files) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_missing_shard_is_named(files: Files, tmp_path: Path) -> None:
    missing = ShardFile(files.url("none.tar") + "?token=se-cret", SIZE, "0" * 64)
    with pytest.raises(FileNotFoundError) as raised:
        ShardCache(tmp_path, 10 * SIZE, QUICK).local_path(missing)
    assert "none.tar" in str(raised.value)
    assert "se-cret" not in str(raised.value)


@pytest.mark.parametrize("digest", ["../../x", "0" * 63, "G" * 64])
def test_a_checksum_is_never_a_path(files: Files, tmp_path: Path, digest: str) -> None:
    with pytest.raises(ValueError, match="sha256"):
        ShardCache(tmp_path / "cache", 10 * SIZE, QUICK).local_path(
            ShardFile(files.url("shard-000000.tar"), SIZE, digest)
        )


def test_a_bound_below_one_shard_is_refused(files: Files, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cache_gb"):
        ShardCache(tmp_path, SIZE - 1, QUICK).local_path(shard(files, 0))
    assert gets(files) == 0


def test_the_least_recently_used_shard_goes(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_cache, "TOUCH_SECONDS", 0.0)
    monkeypatch.setattr(shard_cache, "JUST_FETCHED_SECONDS", 0.0)
    cache = ShardCache(tmp_path, 3 * SIZE, QUICK)
    for number in (0, 1, 2, 0):
        cache.local_path(shard(files, number))
        time.sleep(0.02)
    cache.local_path(shard(files, 3))
    assert {path.read_bytes() for path in tmp_path.glob("*.tar")} == {content(0), content(2), content(3)}
    # An evicted shard is fetched again.
    assert cache.local_path(shard(files, 1)).read_bytes() == content(1)
    assert used_bytes(tmp_path) <= 3 * SIZE


def test_files_of_others_are_never_evicted(files: Files, tmp_path: Path) -> None:
    (tmp_path / "mine.tar").write_bytes(bytes(SIZE))
    (tmp_path / "notes.partial").write_bytes(bytes(SIZE))
    cache = ShardCache(tmp_path, SIZE, QUICK)
    for number in range(3):
        cache.local_path(shard(files, number))
    assert len(list(tmp_path.glob("*.tar"))) == 2
    assert (tmp_path / "mine.tar").exists()
    assert (tmp_path / "notes.partial").exists()


def test_a_bound_that_is_too_small_for_the_shards_in_use_is_said(
    files: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = ShardCache(tmp_path, SIZE, QUICK)
    for number in (0, 1, 0, 1):
        cache.local_path(shard(files, number))
    assert [record.getMessage().count("cache_gb") for record in caplog.records] == [1]


def test_shards_are_fetched_ahead_in_order(files: Files, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 10 * SIZE, QUICK)
    wanted = [shard(files, number) for number in (3, 1, 2)]
    cache.fetch_ahead(wanted)
    wait_until(lambda: len(list(tmp_path.glob("*.tar"))) == 3)
    assert [path for method, path, _ in files.requests if method == "GET"] == [f"shard-00000{n}.tar" for n in (3, 1, 2)]
    assert [cache.local_path(item).read_bytes() for item in wanted] == [content(3), content(1), content(2)]
    assert gets(files) == 3


def test_fetching_ahead_never_evicts_what_is_wanted(files: Files, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 2 * SIZE, QUICK)
    path = cache.local_path(shard(files, 0))
    cache.fetch_ahead([shard(files, number) for number in (1, 2, 3)])
    wait_until(lambda: len(list(tmp_path.glob("*.tar"))) == 2)
    time.sleep(0.5)
    assert path.exists()
    assert gets(files) == 2
    # What is needed now is fetched all the same.
    assert cache.local_path(shard(files, 3)).read_bytes() == content(3)


def test_a_shard_that_cannot_be_fetched_ahead_is_reported_when_it_is_read(files: Files, tmp_path: Path) -> None:
    del files.content["shard-000001.tar"]
    cache = ShardCache(tmp_path, 10 * SIZE, QUICK)
    cache.fetch_ahead([shard(files, 1), shard(files, 2)])
    wait_until(lambda: len(list(tmp_path.glob("*.tar"))) == 1)
    with pytest.raises(FileNotFoundError, match="shard-000001"):
        cache.local_path(shard(files, 1))


def test_fetching_ahead_continues_after_a_list_of_which_nothing_can_be_had(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    died: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", died.append)
    cache = ShardCache(tmp_path / "cache", 10 * SIZE, QUICK)
    cache.fetch_ahead([ShardFile(files.url("absent.tar"), SIZE, "0" * 64)])
    wait_until(lambda: gets(files) > 0 or died)
    time.sleep(0.3)
    cache.fetch_ahead([shard(files, 2)])
    wait_until(lambda: (tmp_path / "cache" / f"{shard(files, 2).sha256}.tar").exists() or died)
    assert not died


def test_a_full_disk_is_one_line_and_leaves_nothing(files: Files, tmp_path: Path) -> None:
    """A limit on the size of files fails as a full quota does."""

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE // 2, SIZE // 2))
        try:
            ShardCache(tmp_path, 10 * SIZE, QUICK).local_path(shard(files, 0))
        except OSError as error:
            os._exit(0 if error.errno == errno.EFBIG and error.filename == str(tmp_path) else 2)
        os._exit(1)

    assert exit_status(limited) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_forked_worker_uses_the_cache_of_its_parent(files: Files, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 10 * SIZE, QUICK)
    cache.local_path(shard(files, 0))
    cache.fetch_ahead([shard(files, 1)])

    def worker() -> None:
        cache.fetch_ahead([shard(files, 3)])
        found = [cache.local_path(shard(files, number)).read_bytes() == content(number) for number in (0, 2)]
        wait_until(lambda: (tmp_path / f"{shard(files, 3).sha256}.tar").exists())
        os._exit(0 if all(found) else 1)

    assert exit_status(worker) == 0


def test_four_processes_share_two_shards_of_room(files: Files, tmp_path: Path) -> None:
    peaks = [0]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            peaks.append(used_bytes(tmp_path))

    watcher = threading.Thread(target=watch)
    watcher.start()
    programs = [reader(files, tmp_path, 2 * SIZE, seed, ahead=2) for seed in range(4)]
    results = [program.communicate(timeout=120) for program in programs]
    done.set()
    watcher.join()
    assert [(json.loads(out), program.returncode) for (out, _), program in zip(results, programs, strict=True)] == (
        [([], 0)] * 4
    ), results
    # A few hundred bytes are lock files.
    assert max(peaks) <= 2 * SIZE + 4096


def test_two_runs_with_different_bounds(files: Files, tmp_path: Path) -> None:
    programs = [reader(files, tmp_path, bound * SIZE, bound) for bound in (1, 5)]
    assert [json.loads(program.communicate(timeout=120)[0]) for program in programs] == [[], []]


def test_killed_processes_leave_nothing_wrong(files: Files, tmp_path: Path) -> None:
    """Twenty kills while shards come slowly; then all is read right, and no byte is fetched that a kill left."""
    rates = random.Random(5)

    def slowly(handler: Handler, content: bytes, begin: int) -> None:
        handler.serve(content, begin, body=False)
        for at in range(begin, len(content), 20_000):
            try:
                handler.send(content[at : at + 20_000])
            except OSError:
                return
            time.sleep(0.01)

    for name in CONTENT:
        files.faults[name] = [slowly] * 40
    forking = multiprocessing.get_context("fork")
    for kill in range(20):
        victim = forking.Process(target=read_quietly, args=(arguments(files, tmp_path, 3 * SIZE, kill, ahead=2),))
        victim.start()
        time.sleep(rates.uniform(0.02, 0.3))
        assert victim.pid is not None
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()
        for path in tmp_path.glob("*.tar"):
            assert hashlib.sha256(path.read_bytes()).hexdigest() == path.stem
        assert used_bytes(tmp_path) <= 3 * SIZE + 8192
    program = reader(files, tmp_path, 10 * SIZE, 0)
    assert json.loads(program.communicate(timeout=120)[0]) == []
    assert {path.suffix for path in tmp_path.iterdir()} == {".tar"}


def test_a_transient_fault_while_several_wait(files: Files, tmp_path: Path) -> None:
    files.faults["shard-000000.tar"] = [answer(503), end_after(1000)]
    cache = ShardCache(tmp_path, 10 * SIZE, QUICK)
    results: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: results.append(cache.local_path(shard(files, 0)).read_bytes()))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [content(0)] * 4
    assert gets(files) == 3


def arguments(files: Files, folder: Path, max_bytes: int, seed: int, ahead: int = 0) -> dict[str, object]:
    shards = [shard(files, number) for number in range(len(CONTENT))]
    return {
        "folder": str(folder),
        "max_bytes": max_bytes,
        "seed": seed,
        "ahead": ahead,
        "shards": [asdict(item) for item in shards],
        "digests": {item.location: item.sha256 for item in shards},
    }


def reader(files: Files, folder: Path, max_bytes: int, seed: int, ahead: int = 0) -> subprocess.Popen[str]:
    """A process that reads all shards in its own order."""
    words = [sys.executable, "-m", "tests.storage.cache_programs", "read_all"]
    text = json.dumps(arguments(files, folder, max_bytes, seed, ahead))
    return subprocess.Popen([*words, text], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def read_quietly(values: dict[str, object]) -> None:
    from tests.storage.cache_programs import read_all

    with open(os.devnull, "w") as sys.stdout:
        read_all(values)


def exit_status(work: Callable[[], None]) -> int | None:
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(60)
    process.kill()  # one that hangs must not keep pytest from ending
    return process.exitcode


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    stop = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < stop, "did not happen in time"
        time.sleep(0.01)
