"""One writer per folder, with real processes, and on file systems that have no locks."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from avrt.files.folder_lock import LOCK_NAME, FolderInUseError, FolderLock
from avrt.model.export import export

NO_FLOCK = (
    "import errno, fcntl\n"
    "def flock(*arguments): raise OSError(errno.ENOLCK, 'No locks available')\n"
    "fcntl.flock = flock\n"
)
"""Lustre without ``-o flock``."""

HOLD = (
    "import sys\n"
    "from avrt.files.folder_lock import FolderLock\n"
    "with FolderLock(sys.argv[1], 'pack', beside=sys.argv[2] == 'beside'):\n"
    "    print('held', flush=True)\n"
    "    sys.stdin.read()\n"
)


@contextmanager
def holder(folder: Path, *, beside: bool = False, before: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds the lock until its input is closed."""
    words = [sys.executable, "-c", before + HOLD, str(folder), "beside" if beside else "inside"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


@pytest.fixture
def no_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.parametrize("beside", [False, True])
def test_a_second_process_is_refused_with_the_folder_and_the_first_one(tmp_path: Path, beside: bool) -> None:
    folder = tmp_path / "out"
    with holder(folder, beside=beside) as process:
        with pytest.raises(FolderInUseError) as refusal, FolderLock(folder, "pack", beside=beside):
            pass
        assert all(part in str(refusal.value) for part in (str(folder), "`pack`", str(process.pid)))
    # Killed: the system has freed the lock, whatever file is left.
    with FolderLock(folder, "pack", beside=beside):
        assert folder.exists() != beside
    assert list(tmp_path.rglob(f"*{LOCK_NAME}*")) == []


def test_two_exports_to_one_folder(tmp_path: Path) -> None:
    """The second is refused before it reads anything; an empty folder stays an empty one."""
    with FolderLock(tmp_path / "out", "export", beside=True), pytest.raises(FolderInUseError, match="`export`"):
        export(tmp_path / "run", tmp_path / "out")
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="run"):
        export(tmp_path / "run", tmp_path / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["out"]


def test_who_waits_gets_its_turn(tmp_path: Path) -> None:
    messages: list[str] = []

    with holder(tmp_path) as process:

        def wait(message: str) -> None:
            messages.append(message)
            assert process.stdin is not None
            process.stdin.close()

        with FolderLock(tmp_path, "demo", wait=wait):
            assert process.wait(30) == 0
    (message,) = messages
    assert str(process.pid) in message


def test_a_file_that_its_holder_removes_after_it_was_opened_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock would be on a file that nobody else sees."""
    real, calls = fcntl.flock, []

    def flock(descriptor: int, operation: int) -> None:
        if not calls:
            (tmp_path / LOCK_NAME).unlink()
        calls.append(descriptor)
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with FolderLock(tmp_path, "pack"), pytest.raises(FolderInUseError), FolderLock(tmp_path, "pack"):
        pass


@pytest.mark.usefixtures("no_flock")
def test_without_flock_the_file_is_the_lock(tmp_path: Path) -> None:
    with holder(tmp_path, before=NO_FLOCK) as process:
        with pytest.raises(FolderInUseError) as refusal, FolderLock(tmp_path, "pack"):
            pass
        assert all(part in str(refusal.value) for part in (str(tmp_path), "`pack`", str(process.pid), "delete"))
    # The file of a dead process of this machine is replaced.
    assert list(tmp_path.iterdir()) != []
    with FolderLock(tmp_path, "pack"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_flock")
@pytest.mark.parametrize("change", ["machine", "container", "number used again"])
def test_without_flock_a_process_is_told_from_others(tmp_path: Path, change: str) -> None:
    """A process of another machine or container may be alive; a number that another process has got is no proof."""
    with FolderLock(tmp_path, "pack"):
        (file,) = tmp_path.iterdir()
        shown, identity = file.read_text().splitlines()
    number, begun, namespace, machine = identity.split(" ")
    if change == "machine":
        machine = "elsewhere"
    elif change == "container":
        namespace = "pid:[1]"
    else:
        begun = "1"
    file.write_text(f"{shown}\n{number} {begun} {namespace} {machine}\n")
    if change == "number used again":
        with FolderLock(tmp_path, "pack"):
            pass
        return
    with pytest.raises(FolderInUseError, match="delete"), FolderLock(tmp_path, "pack"):
        pass


def test_other_failures_name_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*arguments: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match=str(tmp_path)), FolderLock(tmp_path, "pack"):
        pass


def test_a_folder_that_was_made_for_the_lock_is_removed_with_it(tmp_path: Path) -> None:
    with FolderLock(tmp_path / "new", "pack"):
        pass
    assert not (tmp_path / "new").exists()
    with FolderLock(tmp_path / "used", "pack"):
        (tmp_path / "used" / "file").touch()
    (tmp_path / "mine").mkdir()
    with FolderLock(tmp_path / "mine", "pack"):
        pass
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "mine", "used"]
