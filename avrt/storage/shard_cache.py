"""Remote shards on the local disk: fetched whole, verified, bounded in bytes, shared by all processes of a machine.

Files in the cache folder:

* ``<key>.tar``: a complete shard. Its time of change is the time of its last use.
* ``<key>.<bytes>.partial``: a shard that is being fetched; its room is reserved from the start.
* ``.<key>.lock``: held while a process fetches the shard; the others wait for it.
* ``.room.lock``: held while room is made.

The key is the shard's SHA-256, so the same shard at two locations is kept once. For a shard that no manifest lists, it
is a hash of the location and of what the server says about the version.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

from avrt.files.atomic import PARTIAL_SUFFIX, sync_file
from avrt.files.cache_root import cache_root
from avrt.files.folder_lock import FolderInUseError, FolderLock
from avrt.storage.addresses import local_path_of, scheme_of, shown
from avrt.storage.transfers import DEFAULT_RETRIES, Retries, download, file_info

log = logging.getLogger(__name__)

DEFAULT_CACHE_BYTES = 50_000_000_000

TOUCH_SECONDS = 20.0
"""A use is recorded when the last recorded one is older: one system call less for each sample."""

WANTED_SECONDS = 60.0
"""Fetching ahead does not evict shards that were used, or were on the list of another process, in this time."""

JUST_FETCHED_SECONDS = 0.2
"""A shard stays at least this long, so that whoever fetched it can open it."""

_POLL_SECONDS = 0.05
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FILE = re.compile(rf"({_SHA256.pattern})\.(?:tar|(\d+){re.escape(PARTIAL_SUFFIX)})")


@dataclass(frozen=True)
class ShardFile:
    """One shard; `bytes` and `sha256` come from the manifest, and are None for shards that no manifest lists."""

    location: str
    bytes: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class _Wanted:
    """A remote shard and its place in the cache."""

    location: str
    bytes: int
    sha256: str | None
    key: str


@dataclass(frozen=True)
class _Entry:
    """A file in the cache; `bytes` is what it takes when it is complete."""

    path: Path
    key: str
    bytes: int
    used: float


class ShardCache:
    """Local copies of remote shards.

    ::

        cache = ShardCache(max_bytes=50_000_000_000)
        cache.fetch_ahead(next_shards)
        with cache.open(shard) as file:
            ...

    Any number of processes may use one folder, also with different bounds: each keeps to its own when it fetches. The
    object can be pickled and forked; each process has its own background thread.

    Args:
        folder: made if absent; None for ``shards`` in `avrt.files.cache_root.cache_root`.
        max_bytes: bound of all files in the folder.
        retries: when transfers are tried again.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        max_bytes: int = DEFAULT_CACHE_BYTES,
        retries: Retries = DEFAULT_RETRIES,
    ) -> None:
        if max_bytes < 1:
            raise ValueError(f"cache_gb: must be positive, got {max_bytes / 1e9:g}")
        self._folder = folder
        self.max_bytes = max_bytes
        self.retries = retries
        self._begin()

    def _begin(self) -> None:
        """State of one process."""
        self._process = os.getpid()
        self._places: dict[ShardFile, tuple[Path, int | None]] = {}
        self._wanted: dict[ShardFile, _Wanted] = {}
        self._ahead: list[ShardFile] = []
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        self._warned = False

    @property
    def folder(self) -> Path:
        """The folder; found only when it is needed, since a user without a home folder can read local shards.

        Raises:
            ValueError: see `cache_root`.
        """
        return cache_root() / "shards" if self._folder is None else Path(self._folder).expanduser()

    def __getstate__(self) -> dict[str, Any]:
        return {"_folder": self._folder, "max_bytes": self.max_bytes, "retries": self.retries}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def local_path(self, shard: ShardFile) -> Path:
        """The path of a shard's local copy, fetched now if there is none.

        Another process may evict it before it is opened, when the bound is too small for the shards in use; `open`
        then fetches it again.

        Raises:
            ValueError: its bytes are not those of the manifest, or the bound is smaller than the shard.
            OSError: it cannot be had, or the disk is full.
        """
        if self._process != os.getpid():
            self._begin()
        known = self._places.get(shard)
        if known is None:
            known = self._places[shard] = self._place(shard)
        path, size = known
        if size is not None and not _is_kept(path, size):
            self._fetch(self._identify(shard), is_urgent=True)
        return path

    def open(self, shard: ShardFile) -> BufferedReader:
        """A shard's local copy, open for reading; an open file can be read to its end also after its eviction.

        Raises:
            ValueError, OSError: see `local_path`.
        """
        while True:
            path = self.local_path(shard)
            try:
                return open(path, "rb")
            except FileNotFoundError:
                if not scheme_of(shard.location):
                    raise

    def fetch_ahead(self, shards: Sequence[ShardFile]) -> None:
        """Fetch shards in the background, in this order; the list replaces the one of an earlier call.

        Shards on the list stay in the cache as long as there are others to evict. A shard that cannot be had is left to
        `local_path`, which reports it.
        """
        if self._process != os.getpid():
            self._begin()
        remote = [shard for shard in shards if scheme_of(shard.location)]
        with self._changed:
            if remote == self._ahead:
                return
            self._ahead = remote
            self._changed.notify_all()
            if remote and self._thread is None:
                self._thread = threading.Thread(target=self._work_ahead, name="shard-cache", daemon=True)
                self._thread.start()

    def _work_ahead(self) -> None:
        failed: set[ShardFile] = set()
        while True:
            with self._changed:
                todo = list(self._ahead)
                if not todo:
                    self._thread = None
                    return
            is_waiting = is_cached = True
            for shard in todo:
                if shard in failed:
                    continue
                try:
                    is_cached, is_fetched = self._keep(shard)
                except (OSError, ValueError) as error:
                    log.info("not fetched ahead: %s", error)
                    failed.add(shard)
                    continue
                if is_fetched or not is_cached:
                    # The list may be another by now; and without room for this one, there is none for the next.
                    is_waiting = not is_fetched
                    break
            with self._changed:
                if is_waiting and todo == self._ahead:
                    self._changed.wait(1.0 if not is_cached else TOUCH_SECONDS)

    def _keep(self, shard: ShardFile) -> tuple[bool, bool]:
        """Keep a shard in the cache or fetch it: whether it is there, and whether it was fetched now."""
        wanted = self._identify(shard)
        if _is_kept(self._path(wanted), wanted.bytes):
            return True, False
        is_fetched = self._fetch(wanted, is_urgent=False)
        return is_fetched, is_fetched

    def _place(self, shard: ShardFile) -> tuple[Path, int | None]:
        """A shard's local path, and its size if that is in the cache."""
        if not scheme_of(shard.location):
            return local_path_of(shard.location), None
        wanted = self._identify(shard)
        return self._path(wanted), wanted.bytes

    def _path(self, wanted: _Wanted) -> Path:
        return self.folder / f"{wanted.key}.tar"

    def _identify(self, shard: ShardFile) -> _Wanted:
        """A remote shard's key, and its size where no manifest says it; the server is asked once in a process."""
        known = self._wanted.get(shard)
        if known is not None:
            return known
        if shard.sha256 is not None and not _SHA256.fullmatch(shard.sha256):
            raise ValueError(f"{shown(shard.location)}: the manifest's sha256 is not one: {shard.sha256!r:.80}")
        size, key = shard.bytes, shard.sha256
        if size is None or key is None:
            info = file_info(shard.location, self.retries)
            size = info.bytes if size is None else size
            if size is None:
                raise ValueError(
                    f"{shown(shard.location)}: the server does not say its size; put a manifest.json beside the shards"
                )
            if key is None:
                key = hashlib.sha256(f"{shard.location} {size} {info.version}".encode()).hexdigest()
        if size > self.max_bytes:
            raise ValueError(
                f"{shown(shard.location)}: has {size} bytes, more than the {self.max_bytes} that the shard cache may "
                "hold; raise cache_gb"
            )
        wanted = self._wanted[shard] = _Wanted(shard.location, size, shard.sha256, key)
        return wanted

    def _fetch(self, wanted: _Wanted, *, is_urgent: bool) -> bool:
        """Fetch a shard unless another process does; False if there is no room and it is not urgent."""
        path = self._path(wanted)
        partial = self.folder / f"{wanted.key}.{wanted.bytes}{PARTIAL_SUFFIX}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._lock(wanted.key):
                if _is_kept(path, wanted.bytes):
                    return True
                path.unlink(missing_ok=True)
                while not self._reserve(wanted, partial, is_urgent):
                    if not is_urgent:
                        return False
                    time.sleep(_POLL_SECONDS)
                self._transfer(wanted, partial)
                os.replace(partial, path)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            partial.unlink(missing_ok=True)
            reason = f"{error.strerror} for the shard cache; lower cache_gb, or put cache_dir on another disk"
            raise OSError(error.errno, reason, str(self.folder)) from error
        return True

    def _lock(self, key: str, *, wait: bool = True) -> FolderLock:
        return FolderLock(
            self.folder,
            "shard cache",
            name=f".{key}.lock",
            wait=log.debug if wait else None,
            poll_seconds=_POLL_SECONDS,
        )

    def _transfer(self, wanted: _Wanted, partial: Path) -> None:
        """Fetch and verify; wrong bytes are fetched once more, since a proxy may have served another file's."""
        if wanted.sha256 is None:
            # A power cut may leave holes, which nothing would notice.
            os.truncate(partial, 0)
        for attempt in (1, 2):
            found = download(wanted.location, partial, wanted.bytes, self.retries)
            if wanted.sha256 in (None, found):
                sync_file(partial)
                return
            os.truncate(partial, 0)
            log.info("%s: attempt %d brought wrong bytes", shown(wanted.location), attempt)
        partial.unlink()
        raise ValueError(
            f"{shown(wanted.location)}: its SHA-256 is not the manifest's (fetched twice): {found}, not "
            f"{wanted.sha256}; the file or its manifest was replaced or is damaged"
        )

    def _reserve(self, wanted: _Wanted, partial: Path, is_urgent: bool) -> bool:
        """Evict what is least recently used and make the partial file, or return False if too little may be evicted."""
        with self._lock("room"):
            entries = [entry for entry in self._entries() if entry.path != partial]
            excess = sum(entry.bytes for entry in entries) + wanted.bytes - self.max_bytes
            now = time.time()
            kept = JUST_FETCHED_SECONDS if is_urgent else WANTED_SECONDS
            victims = []
            for entry in sorted(entries, key=lambda entry: entry.used):
                if excess <= 0:
                    break
                if abs(now - entry.used) < kept:  # a time in the future is a clock that was set, and counts as old
                    continue
                if entry.path.suffix == PARTIAL_SUFFIX and self._is_being_fetched(entry):
                    continue
                victims.append(entry)
                excess -= entry.bytes
            if excess > 0:
                return False
            for entry in victims:
                entry.path.unlink(missing_ok=True)
            partial.touch()
        self._warn(victims, now)
        return True

    def _is_being_fetched(self, entry: _Entry) -> bool:
        """Whether a process is fetching a partial shard; one that was killed holds no lock."""
        try:
            with self._lock(entry.key, wait=False):
                return False
        except FolderInUseError:
            return True

    def _entries(self) -> list[_Entry]:
        """The files that take room; partial ones count as whole."""
        found = []
        for item in os.scandir(self.folder):
            name = _FILE.fullmatch(item.name)  # nothing else in the folder is ever removed
            if name is None:
                continue
            with suppress(FileNotFoundError):
                status = item.stat()
                found.append(_Entry(Path(item.path), name[1], int(name[2] or status.st_size), status.st_mtime))
        return found

    def _warn(self, victims: Sequence[_Entry], now: float) -> None:
        """Say once that the bound is too small for what is in use."""
        if self._warned or not any(now - entry.used < TOUCH_SECONDS for entry in victims):
            return
        self._warned = True
        log.warning(
            "%s: %g GB do not hold the shards in use, which are fetched again and again; raise cache_gb",
            self.folder,
            self.max_bytes / 1e9,
        )


def _is_kept(path: Path, size: int) -> bool:
    """Whether a shard is in the cache, whole. Its use is recorded, if the last recorded one is old."""
    try:
        status = os.stat(path)
        if status.st_size == size and abs(time.time() - status.st_mtime) > TOUCH_SECONDS:
            os.utime(path)
    except FileNotFoundError:
        return False
    return status.st_size == size
