"""Reading remote files: retried with growing waits, resumed at the byte where a transfer broke.

``http://`` and ``https://`` are streamed with httpx2, which tells statuses, lengths and time-outs apart; other URLs are
read in ranges through fsspec.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

import httpx2

from avrt.storage.addresses import HTTP, filesystem, scheme_of, shown, without_secrets

log = logging.getLogger(__name__)
# It would log every URL, signatures included.
logging.getLogger("httpx2").setLevel(logging.WARNING)

T = TypeVar("T")

RANGE_BYTES = 16 << 20
"""Bytes per request to object storage."""

LEAST_BYTES = 64 << 10
"""A transfer that brings fewer bytes in `Retries.timeout_seconds` is broken off."""

_BLOCK = 1 << 20

_PASSING_STATUSES = frozenset({408, 425, 429})
"""HTTP statuses below 500 that pass by themselves."""

_BACKEND_ERRORS = (
    ("aiohttp", "ClientError"),
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("azure.core.exceptions", "AzureError"),
)
"""Errors of fsspec's file systems that are not OSError, by module; a module that is not loaded raises none."""

_LASTING_ERRORS = frozenset(
    {
        "NoCredentialsError",
        "OfflineModeIsEnabled",
        "PartialCredentialsError",
        "ProfileNotFound",
        "DefaultCredentialsError",
        "ParamValidationError",
    }
)
"""Names of errors that another attempt does not fix."""


@dataclass(frozen=True)
class Retries:
    """When a transfer is tried again.

    Attributes:
        attempts: failures in a row without progress before it is given up.
        timeout_seconds: longest wait for a connection, and for `LEAST_BYTES` of data.
        first_wait_seconds: wait after the first failure; doubles with each further one.
        longest_wait_seconds: the longest of these waits.
    """

    attempts: int = 6
    timeout_seconds: float = 30.0
    first_wait_seconds: float = 0.5
    longest_wait_seconds: float = 30.0

    def wait(self, failures: int, at_least: float = 0.0) -> None:
        """Wait after the given number of failures in a row; with a random part, so that processes spread out."""
        seconds = min(self.longest_wait_seconds, self.first_wait_seconds * 2 ** (failures - 1))
        time.sleep(max(seconds * random.uniform(0.5, 1), min(at_least, self.longest_wait_seconds)))


DEFAULT_RETRIES = Retries()


class BrokenTransferError(Exception):
    """A transfer failed in a way that may pass; `wait_seconds` is what the server asked to wait."""

    def __init__(self, reason: str, wait_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds


@dataclass(frozen=True)
class RemoteFile:
    """What the server says of a file: its size in bytes, None if it does not say, and a text that changes with it."""

    bytes: int | None
    version: str


class Source(Protocol):
    """One remote file."""

    def info(self) -> RemoteFile:
        """Size and version."""

    def read(self, offset: int, size: int) -> tuple[int, Iterator[bytes]]:
        """The bytes from `offset` to the end of a file of `size` bytes, and the offset at which they really begin: 0
        where a server ignores ranges."""

    def read_all(self) -> bytes:
        """The whole file, which must be small."""

    def close(self) -> None:
        """Close the connections."""


@contextmanager
def open_source(location: str, retries: Retries = DEFAULT_RETRIES) -> Iterator[Source]:
    """The source for a URL."""
    kind = HttpSource if scheme_of(location) in HTTP else FsspecSource
    with closing(kind(location, retries)) as source:
        yield source


class HttpSource:
    """A file on a web server."""

    def __init__(self, location: str, retries: Retries) -> None:
        self.location = location
        self.etag = ""
        self.client = httpx2.Client(
            follow_redirects=True,
            timeout=retries.timeout_seconds,
            # Compressed on the way, lengths and offsets would be others.
            headers={"Accept-Encoding": "identity"},
        )

    def close(self) -> None:
        self.client.close()

    def info(self) -> RemoteFile:
        with translated(self.location):
            response = self.client.head(self.location)
            if not response.is_success:
                # A URL that is signed for GET, or a server without HEAD.
                with self.client.stream("GET", self.location) as response:
                    pass
        _check_status(response, self.location)
        length = response.headers.get("Content-Length")
        version = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        return RemoteFile(int(length) if length and length.isdigit() else None, version)

    def read(self, offset: int, size: int) -> tuple[int, Iterator[bytes]]:
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        if offset and self.etag.startswith('"'):
            headers["If-Range"] = self.etag  # a file that was replaced meanwhile is sent from its start
        with translated(self.location):
            response = self.client.send(self.client.build_request("GET", self.location, headers=headers), stream=True)
        self.etag = response.headers.get("ETag", "")
        try:
            begin, total = _begin_and_total(response, self.location)
            if total not in (None, size):
                raise _wrong_size(self.location, total, size)
        except BaseException:
            response.close()
            raise
        return begin, self._chunks(response)

    def read_all(self) -> bytes:
        with translated(self.location):
            response = self.client.get(self.location)
        _check_status(response, self.location)
        return response.content

    def _chunks(self, response: httpx2.Response) -> Iterator[bytes]:
        with translated(self.location), closing(response):
            yield from response.iter_raw()


def _check_status(response: httpx2.Response, location: str) -> None:
    """Raise for a status other than success."""
    status = response.status_code
    if status in (404, 410):
        raise FileNotFoundError(errno.ENOENT, f"the server has no such file (HTTP {status})", shown(location))
    if status in (401, 403):
        raise PermissionError(errno.EACCES, f"the server refuses access (HTTP {status})", shown(location))
    if status >= 500 or status in _PASSING_STATUSES:
        wait = response.headers.get("Retry-After", "")
        raise BrokenTransferError(f"HTTP {status}", float(wait) if wait.isdigit() else 0.0)
    if status not in (200, 206):
        raise OSError(errno.EIO, f"the server answers HTTP {status}", shown(location))


def _begin_and_total(response: httpx2.Response, location: str) -> tuple[int, int | None]:
    """The offset of a response's first byte, and the size of the whole file."""
    if response.status_code == 416:
        raise OSError(errno.EIO, "the server's file is shorter than before", shown(location))
    _check_status(response, location)
    if response.status_code == 206:
        span, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        begin = span.partition("-")[0]
        if not begin.isdigit():
            raise OSError(errno.EIO, "the server sends a part of the file without saying which", shown(location))
        return int(begin), int(total) if total.isdigit() else None
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


class FsspecSource:
    """A file in object storage, read in ranges."""

    def __init__(self, location: str, retries: Retries) -> None:
        self.location = location
        self.fs, self.path = filesystem(location)

    def close(self) -> None:
        """Nothing to close: fsspec keeps the connections for the next file."""

    def info(self) -> RemoteFile:
        with translated(self.location):
            info = self.fs.info(self.path)
        names = ("ETag", "etag", "generation", "md5Hash", "content_md5", "blob_id", "LastModified", "last_modified")
        version = next((str(info[name]) for name in names if info.get(name)), "")
        return RemoteFile(info.get("size"), version)

    def read(self, offset: int, size: int) -> tuple[int, Iterator[bytes]]:
        return offset, self._chunks(offset, size)

    def read_all(self) -> bytes:
        with translated(self.location):
            return self.fs.cat_file(self.path)

    def _chunks(self, offset: int, size: int) -> Iterator[bytes]:
        for begin in range(offset, size, RANGE_BYTES):
            end = min(begin + RANGE_BYTES, size)
            with translated(self.location):
                data = self.fs.cat_file(self.path, start=begin, end=end)
            yield data
            if len(data) != end - begin:
                raise BrokenTransferError(f"{len(data)} of {end - begin} bytes of a range")


def backend_errors() -> tuple[type[Exception], ...]:
    """Every error type by which the libraries below report a failed transfer."""
    found: list[type[Exception]] = [OSError, httpx2.HTTPError]
    for module, name in _BACKEND_ERRORS:
        if module in sys.modules:
            found.append(getattr(sys.modules[module], name))
    return tuple(found)


@contextmanager
def translated(location: str) -> Iterator[None]:
    """Libraries' errors become `BrokenTransferError` where they may pass, else an OSError that names the location.

    None of them has another error as its cause: it could show the URL with its secrets in a traceback.
    """
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "no such file", shown(location)) from None
    except PermissionError as error:
        reason = without_secrets(str(error), location)
        raise PermissionError(errno.EACCES, f"access is refused: {reason}", shown(location)) from None
    except (ValueError, httpx2.InvalidURL) as error:
        raise ValueError(f"{shown(location)}: {without_secrets(str(error), location)}") from None
    except backend_errors() as error:
        reason = f"{type(error).__name__}: {without_secrets(str(error), location)}".removesuffix(": ")
        status = _status_of(error)
        is_lasting = 400 <= status < 500 and status not in _PASSING_STATUSES
        if is_lasting or type(error).__name__ in _LASTING_ERRORS:
            raise OSError(errno.EACCES, reason, shown(location)) from None
        raise BrokenTransferError(reason) from None


def _status_of(error: Exception) -> int:
    """The HTTP status in a library's error; 0 if there is none."""
    found = getattr(getattr(error, "response", None), "status_code", getattr(error, "status", 0))
    return found if isinstance(found, int) else 0


def with_retries(location: str, call: Callable[[], T], retries: Retries = DEFAULT_RETRIES) -> T:
    """The result of `call`, which raises `BrokenTransferError` when it should be tried again.

    Raises:
        FileNotFoundError, PermissionError: the server says so; not tried again.
        OSError: all attempts failed; names the location and the last reason.
    """
    failures = 0
    while True:
        try:
            return call()
        except BrokenTransferError as error:
            failures += 1
            _next_attempt(location, error, failures, retries)


def _next_attempt(location: str, error: BrokenTransferError, failures: int, retries: Retries) -> None:
    """Wait before the next attempt, or raise when there was the last."""
    if failures >= retries.attempts:
        text = f"the transfer failed {failures} times in a row, the last time with {error}"
        raise OSError(errno.EIO, text, shown(location)) from None
    log.info("%s: %s; attempt %d follows", shown(location), error, failures + 1)
    retries.wait(failures, error.wait_seconds)


def file_info(location: str, retries: Retries = DEFAULT_RETRIES) -> RemoteFile:
    """Size and version of a remote file.

    Raises:
        OSError: see `with_retries`.
    """
    with open_source(location, retries) as source:
        return with_retries(location, source.info, retries)


def download(location: str, path: Path, size: int, retries: Retries = DEFAULT_RETRIES) -> str:
    """Fetch a remote file of known size into `path`, behind the bytes that are there; returns the SHA-256.

    Raises:
        ValueError: the server's file has another size.
        OSError: the file cannot be had (see `with_retries`), or the local disk is full.
    """
    with open_source(location, retries) as source, open(path, "ab+", buffering=_BLOCK) as file:
        digest, offset = _hash_start(file, size)
        failures = 0
        while offset < size:
            before = offset
            try:
                begin, chunks = source.read(offset, size)
                if begin != offset:
                    if begin:
                        raise BrokenTransferError(f"the server sent bytes from {begin} on, not from {offset}")
                    file.truncate(0)
                    digest, offset, before = hashlib.sha256(), 0, 0
                for chunk in _quick_enough(chunks, retries.timeout_seconds):
                    if offset + len(chunk) > size:
                        raise _wrong_size(location, None, size)
                    file.write(chunk)
                    digest.update(chunk)
                    offset += len(chunk)
                if offset < size:
                    raise BrokenTransferError(f"it ended after {offset} of {size} bytes")
            except BrokenTransferError as error:
                failures = 1 if offset - before >= LEAST_BYTES else failures + 1
                _next_attempt(location, error, failures, retries)
        return digest.hexdigest()


def _hash_start(file: BinaryIO, size: int) -> tuple[hashlib._Hash, int]:
    """The digest and number of the bytes that an earlier attempt left in `file`."""
    digest, offset = hashlib.sha256(), 0
    file.seek(0)
    while block := file.read(_BLOCK):
        digest.update(block)
        offset += len(block)
    if offset <= size:
        return digest, offset
    file.truncate(0)
    return hashlib.sha256(), 0


def _quick_enough(chunks: Iterator[bytes], seconds: float) -> Iterator[bytes]:
    """The chunks, as long as `LEAST_BYTES` come in every `seconds`."""
    since, received = time.monotonic(), 0
    for chunk in chunks:
        yield chunk
        received += len(chunk)
        now = time.monotonic()
        if now - since > seconds:
            if received < LEAST_BYTES:
                raise BrokenTransferError(f"only {received} bytes came in {now - since:.0f} s")
            since, received = now, 0


def _wrong_size(location: str, found: int | None, expected: int) -> ValueError:
    has = "more than" if found is None else f"{found} bytes instead of"
    return ValueError(f"{shown(location)}: has {has} the {expected} bytes that were expected; was it replaced?")
