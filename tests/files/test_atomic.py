"""Atomic files on file systems that cannot do all that a local disk can."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from avrt.files.atomic import write_atomic
from tests.programs import environment

LIMITED_FILE_SYSTEM = """
import errno, fcntl, os, stat
_fsync = os.fsync
def fsync(file):
    number = file if isinstance(file, int) else file.fileno()
    if stat.S_ISDIR(os.fstat(number).st_mode):
        raise OSError(errno.EINVAL, "Invalid argument")
    return _fsync(number)
os.fsync = fsync
def flock(*arguments):
    raise OSError(errno.ENOLCK, "No locks available")
fcntl.flock = flock
"""
"""A ``sitecustomize.py`` with the errors of CIFS for an fsync of a folder, and of Lustre without ``-o flock``."""


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_folder_that_cannot_be_synced_is_not_a_failure(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_for_folders(monkeypatch, number)
    write_atomic(tmp_path / "a", b"content")
    assert (tmp_path / "a").read_bytes() == b"content"


def test_a_failing_disk_is_an_error_that_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_for_folders(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match=str(tmp_path)):
        write_atomic(tmp_path / "a", b"content")


def test_a_file_that_cannot_be_synced_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match=str(tmp_path / "a")):
        write_atomic(tmp_path / "a", b"content")
    assert list(tmp_path.iterdir()) == []


def fail_for_folders(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


def test_pack_works_on_a_limited_file_system(real_data: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(LIMITED_FILE_SYSTEM)
    out = tmp_path / "out"
    words = [sys.executable, "-m", "avrt", "pack", "--workers", "1", "--out", str(out)]
    words += ["--annotations", str(real_data / "avqa" / "val_qa.json"), "--videos"]
    words += [str(real_data / "avqa" / "videos")]
    variables = environment()
    variables["PYTHONPATH"] = f"{tmp_path}:{variables['PYTHONPATH']}"
    done = subprocess.run(words, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (out / "manifest.json").is_file()
    assert not list(out.glob(".avrt-lock*"))
