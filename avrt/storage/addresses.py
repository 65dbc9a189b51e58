"""URLs of remote files: which are accepted, and how they are shown without their secrets."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import fsspec

EXTRAS = {"s3": "avrt[s3]", "s3a": "avrt[s3]", "gs": "avrt[gs]", "gcs": "avrt[gs]", "az": "adlfs", "abfs": "adlfs"}
"""What to install for a scheme, where it needs more than the dependencies."""

HTTP = ("http", "https")
SCHEMES = (*HTTP, "s3", "s3a", "gs", "gcs", "hf", "az", "abfs", "oss", "oci", "tos")
"""Accepted schemes: web servers and object storage. fsspec has others that read local files, chain into each other or
reach shells (``reference``, ``simplecache``, ``zip``, ``sftp``); a shard list from elsewhere must not use them."""

MASK = "***"

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)(?:::.*)?://", re.DOTALL)


def scheme_of(location: str | Path) -> str:
    """The scheme of a URL in lower case; empty for a local path and for ``file://``.

    Raises:
        ValueError: the scheme is not accepted.
    """
    found = _SCHEME.match(str(location))
    if found is None:
        return ""
    scheme = found[1].lower()
    if scheme == "file" and "::" not in found[0]:
        return ""
    if scheme not in SCHEMES or "::" in found[0]:
        raise ValueError(
            f"{shown(location)}: URLs that begin with {found[0].partition('://')[0]}:// are not read; use a local path "
            f"or one of {', '.join(f'{name}://' for name in SCHEMES)}"
        )
    return scheme


def local_path_of(location: str | Path) -> Path:
    """The path of a local location, which may be a ``file://`` URL."""
    return Path(str(location).removeprefix("file://"))


def shown(location: str | Path) -> str:
    """A location as messages show it: without user name, password and the values of a query, such as signatures."""
    text = str(location)
    if "://" not in text:
        return text
    scheme, _, rest = text.partition("://")
    end = min((rest.find(mark) for mark in "/?#" if mark in rest), default=len(rest))
    host, path = rest[:end], rest[end:]
    if "@" in host:
        host = f"{MASK}@{host.rpartition('@')[2]}"
    if scheme.lower() in HTTP:
        path, mark, query = path.partition("?")
        path += mark + re.sub(r"=[^&]*", f"={MASK}", query)
    return f"{scheme}://{host}{path}"


def without_secrets(text: str, location: str) -> str:
    """`text` of a library's error with the location's secrets removed."""
    text = text.replace(location, shown(location))
    # A library may show the URL with its own quoting, or one that it was redirected to.
    return re.sub(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+", lambda found: shown(found[0]), text)


def join(folder: str, name: str) -> str:
    """The location of a file in a folder; a query, such as an access token, stays at the end."""
    if scheme_of(folder) in HTTP:
        parts = urlsplit(folder)
        return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))
    return f"{folder.rstrip('/')}/{name}" if scheme_of(folder) else str(local_path_of(folder) / name)


def parent_and_name(location: str) -> tuple[str, str]:
    """The folder of a file, and the file's name in it; the inverse of `join`."""
    if scheme_of(location) in HTTP:
        parts = urlsplit(location)
        head, _, name = parts.path.rpartition("/")
        return urlunsplit(parts._replace(path=head)), name
    if scheme_of(location):
        head, _, name = location.rpartition("/")
        return head, name
    path = local_path_of(location)
    return str(path.parent), path.name


def filesystem(location: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """fsspec's file system for a URL, and the path in it.

    To be called anew for every use: after a fork, fsspec then makes a new object with a new event loop.

    Raises:
        ValueError: the scheme is not accepted, or its package is not installed.
    """
    scheme = scheme_of(location)
    try:
        # Listings are not cached: other processes write to the folders too.
        fs, path = fsspec.url_to_fs(location, use_listings_cache=False)
    except ImportError as error:
        package = EXTRAS.get(scheme, f"the fsspec package for {scheme}")
        raise ValueError(f'{scheme}:// needs another package; run: pip install "{package}" ({error})') from error
    return fs, path
