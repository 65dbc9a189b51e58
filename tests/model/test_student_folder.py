"""Replacing an exported student: other files are never touched, and a kill leaves the old or the new student."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from avrt.cli import main
from avrt.files import atomic_folder
from avrt.model.student import Student
from avrt.model.student_folder import MARKER, check_replaceable, write_student_folder
from tests.programs import environment
from tests.small_shared_memory import with_shared_memory
from tests.tiny_student import load_student

FILES = {"config.json": 40, "model.safetensors": 3_000_000, "tokenizer.json": 200_000}


def content(name: str, version: int) -> bytes:
    return f"{name} {version:09d}\n".encode() * (FILES[name] // 20)


def write_version(folder: Path, version: int) -> None:
    def write(partial: Path) -> None:
        for name in FILES:
            (partial / name).write_bytes(content(name, version))

    write_student_folder(folder, write)


def version_of(folder: Path) -> int:
    """The version in a folder, after a check that it is whole."""
    assert {path.name for path in folder.iterdir()} == {*FILES, MARKER}
    version = int((folder / "config.json").read_bytes().split()[1])
    for name in FILES:
        assert (folder / name).read_bytes() == content(name, version), name
    sizes = json.loads((folder / MARKER).read_text())["files"]
    assert sizes == {name: (folder / name).stat().st_size for name in FILES}
    return version


def write_forever(folder: Path, version: int, can_exchange: bool) -> None:
    """The process that the test kills."""
    if not can_exchange:
        atomic_folder.exchange = lambda *_: False  # type: ignore[assignment]
    while True:
        version += 1
        write_version(folder, version)


@pytest.mark.parametrize("can_exchange", [True, False], ids=["exchange", "without exchange"])
def test_kills_leave_a_whole_student(tmp_path: Path, can_exchange: bool) -> None:
    """A process that exports forever is killed at 20 moments, and at more and later ones on a busy machine.

    Where two names cannot be exchanged (some network file systems), the older student may be in a neighboring folder,
    and the next export puts it back.
    """
    folder = tmp_path / "student"
    begin = time.perf_counter()
    for _ in range(3):
        write_version(folder, 0)
    one_export = (time.perf_counter() - begin) / 3  # disks differ by more than a factor of ten
    seen, version, partials = set(), 0, 0
    for kill in range(200):
        if kill >= 20 and len(seen) > 2 and partials > 2:
            break
        process = multiprocessing.get_context("fork").Process(
            target=write_forever, args=(folder, version, can_exchange)
        )
        process.start()
        time.sleep(0.002 + one_export * 3 * (kill % 20) / 20 * (1 + kill // 20))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        partials += (tmp_path / "student.partial").exists()
        version = version_of(folder if can_exchange or folder.exists() else tmp_path / "student.old.partial")
        seen.add(version)
    assert len(seen) > 2, "replaced between kills"
    assert partials > 2, "killed while it wrote"
    write_version(folder, version + 1)
    assert version_of(folder) == version + 1
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


def test_the_older_student_is_restored_where_names_cannot_be_exchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic_folder, "exchange", lambda *_: False)
    folder = tmp_path / "student"
    write_version(folder, 1)
    os.rename(folder, tmp_path / "student.old.partial")  # as a kill between the two renames leaves it

    def fail(partial: Path) -> None:
        raise ValueError("not now")

    with pytest.raises(ValueError, match="not now"):
        write_student_folder(folder, fail)
    assert version_of(folder) == 1
    write_version(folder, 2)
    assert version_of(folder) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


def test_only_an_export_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "student"
    folder.mkdir()
    write_version(folder, 1)  # an empty folder belongs to nobody
    write_version(folder, 2)
    assert version_of(folder) == 2
    (folder / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"did not write notes\.txt"):
        write_version(folder, 3)
    (folder / "notes.txt").unlink()
    (folder / "deep").mkdir()
    (folder / "deep" / "config.json").touch()
    with pytest.raises(ValueError, match=r"did not write deep/config\.json"):
        write_version(folder, 3)
    assert (folder / "deep" / "config.json").exists()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_that_was_edited_or_copied_over_an_export_is_not_lost(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "student"
    write_version(folder, 1)
    (folder / name).write_text("mine")
    with pytest.raises(ValueError, match=f"{name} was changed"):
        write_version(folder, 2)
    assert (folder / name).read_text() == "mine"
    (folder / name).unlink()  # a part of an export belongs to nobody else
    write_version(folder, 2)
    assert version_of(folder) == 2


@pytest.mark.parametrize("name", ["student", "student.partial", "student.old.partial"])
@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_files_of_others_are_refused(tmp_path: Path, name: str, kind: str) -> None:
    """Also beside the folder, under the names that an export uses while it writes."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "config.json").write_text("{}")
    if kind == "folder":
        precious.rename(tmp_path / name)
    elif kind == "file":
        (tmp_path / name).write_text("thesis")
    else:
        (tmp_path / name).symlink_to(precious)
    before = sorted(path for path in tmp_path.rglob("*"))
    for act in (check_replaceable, lambda folder: write_version(folder, 1)):
        with pytest.raises(ValueError, match=r"was not exported by this version"):
            act(tmp_path / "student")
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_a_link_to_an_export_stays_a_link(tmp_path: Path) -> None:
    write_version(tmp_path / "real", 1)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_version(tmp_path / "link", 2)
    assert (tmp_path / "link").is_symlink()
    assert version_of(tmp_path / "real") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_a_full_disk_is_one_error_that_names_the_file(student_folder: Path, tmp_path: Path) -> None:
    """The limit on a file's size fails as a full disk does, in the writer of the weights."""
    student = load_student(student_folder)
    write_student_folder(tmp_path / "student", student.save)
    limit, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
    try:
        with pytest.raises(OSError, match=r"File too large.*model\.safetensors"):
            write_student_folder(tmp_path / "student", student.save)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, ignored)
    assert [path.name for path in tmp_path.iterdir()] == ["student"]
    load_student(tmp_path / "student")


def test_the_command_leaves_a_folder_of_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").touch()
    assert main(["export", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "is not empty" in capsys.readouterr().err


def save_forever(student: Student, folder: Path) -> None:
    """The process that the test kills."""
    torch.set_num_threads(1)
    while True:
        write_student_folder(folder, student.save)


def test_a_real_student_is_whole_after_30_kills(student_folder: Path, tmp_path: Path) -> None:
    """Killed at random moments while it is replaced: every file is as the first export wrote it."""
    target, dice, partials = tmp_path / "student", random.Random(0), 0
    student = load_student(student_folder)
    begin = time.perf_counter()
    write_student_folder(target, student.save)
    one_export = time.perf_counter() - begin
    whole = {path.name: path.read_bytes() for path in target.iterdir()}
    for _ in range(30):
        process = multiprocessing.get_context("fork").Process(target=save_forever, args=(student, target))
        process.start()
        time.sleep(dice.uniform(0.0, 2 * one_export))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        partials += (tmp_path / "student.partial").exists()
        assert {path.name: path.read_bytes() for path in target.iterdir()} == whole
    assert partials > 5, "killed while it wrote"
    write_student_folder(target, load_student(target).save)
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


SAVE_TWICE = """
import os, sys
from pathlib import Path
from avrt.model.student_folder import write_student_folder
from tests.programs import environment
from tests.small_shared_memory import with_shared_memory
from tests.tiny_student import load_student
student, target = load_student(Path(sys.argv[1])), Path("/dev/shm/student")
write_student_folder(target, student.save)
room = os.statvfs("/dev/shm")
filler = open("/dev/shm/filler", "wb")
filler.write(bytes(room.f_bavail * room.f_frsize - int(sys.argv[2])))
filler.flush()
try:
    write_student_folder(target, student.save)
except OSError as error:
    print("refused:", error)
print(sorted(os.listdir("/dev/shm")))
load_student(target)
"""


@pytest.mark.parametrize("free", [0, 200_000], ids=str)
def test_a_full_disk_leaves_the_older_student_and_nothing_else(student_folder: Path, free: int) -> None:
    """A file system of 64 MB that is full but for `free` bytes."""
    words = with_shared_memory("64m", [sys.executable, "-c", SAVE_TWICE, str(student_folder), str(free)])
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    refusal, names = done.stdout.strip().splitlines()
    assert "No space left on device" in refusal
    assert "/dev/shm/student" in refusal
    assert names == "['filler', 'student']"
