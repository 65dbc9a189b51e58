"""Durable lines, one writer, incomplete last lines, full disks."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from avrt.files.folder_lock import FolderInUseError
from avrt.files.jsonl_log import _BLOCK, JsonlLog, read_complete_lines

LINES = [b'{"a":1}\n', '{"b":"\u2028"}\n'.encode(), b'{"c":3}\n']


def write(path: Path, *lines: bytes) -> None:
    with JsonlLog(path, "test") as log:
        log.append(lines)


def test_lines_are_read_back_with_number_and_place(tmp_path: Path) -> None:
    path = tmp_path / "new" / "log.jsonl"
    write(path, *LINES[:1])
    write(path, *LINES[1:])
    lines = list(read_complete_lines(path))
    assert [line.data for line in lines] == LINES
    assert [line.number for line in lines] == [1, 2, 3]
    content = path.read_bytes()
    assert [content[line.offset :][: len(line.data)] for line in lines] == LINES
    assert [entry.name for entry in path.parent.iterdir()] == [path.name], "the lock file is removed"


@pytest.mark.parametrize("rest", [b"{", b'{"d":4}', b"x" * (2 * _BLOCK + 5)])
def test_an_incomplete_last_line_is_not_read_and_makes_way(rest: bytes, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(LINES[0] + rest)
    assert [line.data for line in read_complete_lines(path)] == LINES[:1]
    write(path, LINES[2])
    assert path.read_bytes() == LINES[0] + LINES[2]


def test_a_file_with_only_an_incomplete_line_becomes_empty(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"half')
    write(path)
    assert path.read_bytes() == b""


def test_lines_are_on_disk_when_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        synced.append(os.fstat(descriptor).st_size)

    path = tmp_path / "log.jsonl"
    with JsonlLog(path, "test") as log:
        monkeypatch.setattr(os, "fsync", fsync)
        log.append(LINES)
    assert synced == [len(b"".join(LINES))], "one sync for all lines"


def test_a_second_writer_is_refused_until_the_first_closes(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    program = (
        "import sys\n"
        "from avrt.files.jsonl_log import JsonlLog\n"
        "with JsonlLog(sys.argv[1], 'test') as log:\n"
        "    print('open', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    words = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"open\n"
        with pytest.raises(FolderInUseError, match=str(process.pid)):
            write(path, *LINES)
        write(tmp_path / "other.jsonl", *LINES)
        process.stdin.close()
        process.wait()
    write(path, *LINES)


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with JsonlLog(path, "test") as log:
        log.append(LINES[:1])
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(LINES[0]) + 4, hard))
        try:
            with pytest.raises(OSError, match=f"too large.*{path}"):
                log.append(LINES[1:])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert path.read_bytes() == LINES[0]
        log.append(LINES[1:])
    assert path.read_bytes() == b"".join(LINES)


def test_a_failed_opening_releases_the_lock(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(IsADirectoryError):
        JsonlLog(tmp_path / "log.jsonl", "test").open()
    (tmp_path / "log.jsonl").rmdir()
    write(tmp_path / "log.jsonl", *LINES)


def test_closing_twice_is_closing(tmp_path: Path) -> None:
    log = JsonlLog(tmp_path / "log.jsonl", "test").open()
    log.close()
    log.close()
