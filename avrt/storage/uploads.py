"""Folders that finished files are written to: on this machine, or in object storage.

Writers write local files. `OutputFolder.publish` then moves a finished one to a remote folder; for a local folder the
file is there already. Files of a remote folder are staged in ``uploads`` in the cache folder, one at a time per writing
thread. The staging folder also has the records by which a killed run continues, so it must be on a disk that lasts.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Protocol

from avrt.files.atomic import PARTIAL_SUFFIX, write_atomic
from avrt.files.cache_root import cache_root
from avrt.files.folder_lock import LOCK_NAME, FolderLock
from avrt.storage.addresses import HTTP, filesystem, join, local_path_of, scheme_of, shown
from avrt.storage.locations import read_bytes
from avrt.storage.transfers import DEFAULT_RETRIES, BrokenTransferError, Retries, translated, with_retries

UPLOADED_FOLDER = ".uploaded"
"""Folder of the records of uploaded files, in the staging folder."""

CHECK_NAME = ".avrt-write-check"
"""A file that is written and deleted at the start."""


class OutputFolder(Protocol):
    """A folder to write to. Names are relative, with at most one folder: ``train/manifest.json``.

    Attributes:
        location: the folder as messages show it.
        folder: the local folder in which writers make the files.
    """

    location: str
    folder: Path

    def lock(self, command: str, name: str = LOCK_NAME) -> FolderLock:
        """A lock against a second writer on this machine; see `FolderLock`. Other machines are not noticed."""

    def check_writable(self) -> None:
        """Fail now rather than after hours of work, if files cannot be written.

        Raises:
            OSError: names the folder.
        """

    def contains(self, location: str | Path) -> bool:
        """Whether a file or folder is in this folder, or is it."""

    def names(self) -> dict[str, int]:
        """The finished files and what else is in the folder, with sizes in bytes."""

    def local(self, name: str) -> Path:
        """A local copy of a small file."""

    def publish(self, name: str, sha256: str | None = None) -> None:
        """Finish a file that lies in `folder`. It is not uploaded again if it was before with this SHA-256."""

    def remove(self, name: str) -> None:
        """Delete a file, if it is there."""


def output_folder(location: str | Path) -> OutputFolder:
    """The folder at a path or URL.

    Raises:
        ValueError: a web server, which cannot be written to.
    """
    if scheme_of(location) in HTTP:
        raise ValueError(f"{shown(location)}: a web server's folder cannot be written; use s3://, gs:// or a local one")
    return RemoteFolder(str(location)) if scheme_of(location) else LocalFolder(local_path_of(location))


class LocalFolder:
    """An `OutputFolder` on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.location = str(folder)

    def lock(self, command: str, name: str = LOCK_NAME) -> FolderLock:
        return FolderLock(self.folder, command, name=name)

    def check_writable(self) -> None:
        """Nothing to do: the lock is a file in the folder."""

    def contains(self, location: str | Path) -> bool:
        return not scheme_of(location) and local_path_of(location).resolve().is_relative_to(self.folder.resolve())

    def names(self) -> dict[str, int]:
        top = list(os.scandir(self.folder)) if self.folder.is_dir() else []
        inner = [(f"{item.name}/{entry.name}", entry) for item in top if item.is_dir() for entry in os.scandir(item)]
        files = [(item.name, item) for item in top if not item.is_dir()]
        # A link may lead nowhere; its own size will do.
        return {name: entry.stat(follow_symlinks=entry.is_file()).st_size for name, entry in files + inner}

    def local(self, name: str) -> Path:
        return self.folder / name

    def publish(self, name: str, sha256: str | None = None) -> None:
        """Nothing to do: the file has its place."""

    def remove(self, name: str) -> None:
        path = self.folder / name
        path.unlink(missing_ok=True)
        if path.parent != self.folder and path.parent.is_dir() and not any(path.parent.iterdir()):
            path.parent.rmdir()


class RemoteFolder:
    """An `OutputFolder` in object storage."""

    def __init__(self, location: str, retries: Retries = DEFAULT_RETRIES) -> None:
        self.url = location.rstrip("/")
        self.location = shown(self.url)
        self.retries = retries
        digest = hashlib.sha256(self.url.encode()).hexdigest()[:12]
        self.folder = cache_root() / "uploads" / f"{re.sub(r'[^A-Za-z0-9]+', '-', self.location)[:60]}-{digest}"

    def lock(self, command: str, name: str = LOCK_NAME) -> FolderLock:
        return FolderLock(self.folder, command, name=name)

    def check_writable(self) -> None:
        if scheme_of(self.url) == "hf":
            return  # every file is a commit
        target = join(self.url, CHECK_NAME)
        fs, remote = filesystem(target)

        def write_and_delete() -> None:
            with translated(target):
                fs.pipe_file(remote, b"")
                fs.rm_file(remote)

        with_retries(target, write_and_delete, self.retries)

    def contains(self, location: str | Path) -> bool:
        return f"{location}/".startswith(f"{self.url}/")

    def names(self) -> dict[str, int]:
        fs, root = filesystem(self.url)

        def listing() -> dict[str, int]:
            with translated(self.url):
                found = fs.find(root, maxdepth=2, detail=True)
            return {path.removeprefix(root).strip("/"): info["size"] or 0 for path, info in found.items()}

        try:
            names = with_retries(self.url, listing, self.retries)
        except FileNotFoundError:
            return {}  # object storage has no empty folders
        return {name: size for name, size in names.items() if name}

    def local(self, name: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, read_bytes(join(self.url, name), self.retries))
        return path

    def publish(self, name: str, sha256: str | None = None) -> None:
        path, target = self.folder / name, join(self.url, name)
        size = path.stat().st_size
        record = self.folder / UPLOADED_FOLDER / f"{name}.json"
        state = json.dumps({"bytes": size, "sha256": sha256}).encode()
        is_known = sha256 is not None and record.exists() and record.read_bytes() == state
        fs, remote = filesystem(target)

        def stored() -> int:
            with translated(target):
                return int(fs.info(remote)["size"])

        def upload() -> None:
            with translated(target):
                fs.put_file(str(path), remote)
            if (arrived := stored()) != size:
                raise BrokenTransferError(f"{arrived} of {size} bytes arrived")

        if not (is_known and self._size(name) == size):
            record.unlink(missing_ok=True)
            with_retries(target, upload, self.retries)
        if sha256 is not None:
            record.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(record, state)
        path.unlink()

    def _size(self, name: str) -> int | None:
        """Size of a remote file; None if there is none."""
        target = join(self.url, name)
        fs, remote = filesystem(target)

        def size() -> int:
            with translated(target):
                return int(fs.info(remote)["size"])

        try:
            return with_retries(target, size, self.retries)
        except FileNotFoundError:
            return None

    def remove(self, name: str) -> None:
        target = join(self.url, name)
        fs, remote = filesystem(target)

        def delete() -> None:
            with translated(target):
                fs.rm_file(remote)

        try:
            with_retries(target, delete, self.retries)
        except FileNotFoundError:
            pass
        finally:
            (self.folder / name).unlink(missing_ok=True)
            (self.folder / f"{name}{PARTIAL_SUFFIX}").unlink(missing_ok=True)
