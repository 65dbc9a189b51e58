"""One writer per folder: a lock that the system releases when its process ends, also by a kill."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

LOCK_NAME = ".avrt-lock"
"""Ends the name of a lock file; it is removed at the end, and remains only after a kill."""

_WITHOUT_FLOCK = "-file"
"""Added to the name where the file's existence is the lock, so that the two kinds of lock use different files."""

_REFUSED = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP})
"""Error numbers of file systems without locks: Lustre mounted without ``-o flock``, some network and FUSE mounts."""


class FolderInUseError(ValueError):
    """Another process is writing to the folder; the message names both and says how to continue."""


class FolderLock:
    """Keeps a second writer out of a folder during a block.

    ::

        with FolderLock(out, "pack"):
            ...

    The lock is a ``flock`` on the file `LOCK_NAME`: it ends with its process, even a killed one. Where the file system
    has no locks, the file's existence is the lock. The file of a dead process of this machine is then replaced; that of
    another machine has to be deleted by hand, and the error says so.

    Children that are forked inside the block share the lock. In a run of several processes, one of them takes it.

    Args:
        folder: made if absent; removed at the end if it was made here and is empty.
        command: the command that writes, for the error message of the other process.
        beside: lock a file next to the folder, for a folder that must be empty or is replaced as a whole.
        name: ends the lock file's name; different locks in one folder need different names.
        wait: called once, with a message, when another process holds the lock; the lock then waits. Without it, the
            second process is refused.
        poll_seconds: time between two looks while waiting.

    Raises:
        FolderInUseError: another process holds the lock.
        OSError: the lock file cannot be written.
    """

    def __init__(
        self,
        folder: str | Path,
        command: str,
        *,
        beside: bool = False,
        name: str = LOCK_NAME,
        wait: Callable[[str], None] | None = None,
        poll_seconds: float = 0.5,
    ) -> None:
        self.folder = Path(folder)
        self.command = command
        # A path such as "." has no name for a file beside it.
        place = self.folder.resolve()
        self.path = place.parent / f".{place.name}{name}" if beside else self.folder / name
        self._wait = wait
        self._poll_seconds = poll_seconds
        self._descriptor = -1
        self._held = self.path
        self._is_new = False

    def __enter__(self) -> Self:
        self._is_new = not self.path.parent.exists()
        waiting = False
        while (holder := self._take()) is not None:
            if self._wait is None:
                raise FolderInUseError(
                    f"{self.folder}: another {holder} is writing to it; wait for it to end, or choose another folder"
                )
            if not waiting:
                self._wait(f"{self.folder}: another {holder} is writing to it; waiting until it has ended")
                waiting = True
            time.sleep(self._poll_seconds)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # While the lock is held, so that no other process's file is removed.
        self._held.unlink(missing_ok=True)
        if self._is_new:
            with suppress(OSError):  # it is not empty
                self.path.parent.rmdir()
        os.close(self._descriptor)

    def _take(self) -> str | None:
        """Take the lock, or return its holder."""
        while True:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = _shown(_read_holder(descriptor))
                os.close(descriptor)
                return holder
            except OSError as error:
                os.close(descriptor)
                if error.errno not in _REFUSED:
                    raise OSError(error.errno, error.strerror, str(self.path)) from error
                self.path.unlink(missing_ok=True)
                return self._take_without_flock(self.path.with_name(self.path.name + _WITHOUT_FLOCK))
            if _is_file_at(self.path, descriptor):
                self._hold(self.path, descriptor)
                return None
            os.close(descriptor)  # its holder removed it after we had opened it

    def _hold(self, path: Path, descriptor: int) -> None:
        os.ftruncate(descriptor, 0)
        process = f"`{self.command}` (process {os.getpid()} on {socket.gethostname()})"
        os.pwrite(descriptor, f"{process}\n{_identity(os.getpid())}\n".encode(), 0)
        self._held, self._descriptor = path, descriptor

    def _take_without_flock(self, path: Path) -> str | None:
        """Take the lock by creating the file, or return its holder."""
        for _ in range(3):
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
            except FileExistsError:
                holder = _holder_at(path)
                if holder is None:
                    continue  # removed meanwhile
                if not _is_dead(holder):
                    return f"{_shown(holder)}, or one that was killed and left {path} (then delete that file),"
                _remove_stale(path, holder)
            else:
                self._hold(path, descriptor)
                return None
        return f"process (delete {path} if there is none)"


def _remove_stale(path: Path, holder: str) -> None:
    """Remove a dead process's file; put back the file of another process that replaced it meanwhile."""
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return  # another process was quicker
    if _holder_at(aside) == holder:
        aside.unlink()
    else:
        os.rename(aside, path)


def _is_file_at(path: Path, descriptor: int) -> bool:
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(descriptor))


def _read_holder(descriptor: int) -> str:
    return os.pread(descriptor, 500, 0).decode(errors="replace")


def _holder_at(path: Path) -> str | None:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        return _read_holder(descriptor)
    finally:
        os.close(descriptor)


def _shown(holder: str) -> str:
    """The readable line of a lock file."""
    return holder.partition("\n")[0] or "process"


def _identity(process: int) -> str:
    """A process's identity; its number alone is used again, and is valid only in its container."""
    return f"{process} {_start_time(process)} {os.readlink('/proc/self/ns/pid')} {socket.gethostname()}"


def _start_time(process: int) -> str:
    """A process's start time in clock ticks since boot; empty if it has ended."""
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as file:
            # The second field is a name in parentheses that may hold spaces.
            return file.read().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _is_dead(holder: str) -> bool:
    """Whether the process that wrote a lock file is known to have ended; False for other machines."""
    identity = holder.partition("\n")[2].strip()
    number, _, rest = identity.partition(" ")
    _, _, machine = rest.partition(" ")
    if not number.isdigit() or machine != _identity(os.getpid()).split(" ", 2)[2]:
        return False
    return identity != _identity(int(number))
