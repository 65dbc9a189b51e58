"""Locations of files as users write them: paths, globs, brace patterns and URLs, on this machine or elsewhere."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path

from braceexpand import braceexpand

from avrt.storage.addresses import HTTP, filesystem, join, local_path_of, parent_and_name, scheme_of, shown
from avrt.storage.transfers import DEFAULT_RETRIES, Retries, open_source, translated, with_retries

__all__ = ["expand", "is_folder", "is_remote", "join", "parent_and_name", "read_bytes", "shown"]

_HTTP_MAGIC = re.compile(r"[*\[]")
_FILE_NAME = re.compile(r"\.(tar|jsonl?|csv|tsv|parquet|arrow)$")


def is_remote(location: str | Path) -> bool:
    """Whether a location is a URL other than ``file://``.

    Raises:
        ValueError: a URL of a kind that is not read, see `avrt.storage.addresses.SCHEMES`.
    """
    return scheme_of(location) != ""


def expand(patterns: str | Path | Sequence[str | Path]) -> list[str]:
    """The locations of patterns, in their order; matches of a glob pattern sorted.

    A pattern is a path or a URL with or without braces (``shard-{000000..000031}.tar``, ``{a,b}``) and wildcards
    (``*``, ``?``, ``[...]``, ``**``). One without either is returned as it is, whether it exists or not; so is an
    existing path whose name has such characters.

    Raises:
        ValueError: no file matches a pattern with wildcards, or the kind of URL cannot list its files.
        OSError: the files cannot be listed.
    """
    found: list[str] = []
    for pattern in [patterns] if isinstance(patterns, str | Path) else patterns:
        scheme = scheme_of(pattern)
        if not scheme and local_path_of(pattern).exists():
            found.append(str(local_path_of(pattern)))
            continue
        try:
            names = list(braceexpand(str(pattern) if scheme else str(local_path_of(pattern))))
        except ValueError as error:
            raise ValueError(f"{shown(pattern)}: has a brace without its counterpart") from error
        for name in names:
            found.extend(_expand_wildcards(name, scheme))
    return found


def _expand_wildcards(name: str, scheme: str) -> list[str]:
    if scheme in HTTP:
        if _HTTP_MAGIC.search(name.partition("?")[0]):
            raise ValueError(
                f"{shown(name)}: a web server cannot list its files; number the shards, as in "
                "shard-{000000..000031}.tar, or name a folder with a manifest.json"
            )
        return [name]
    if not glob.has_magic(name):
        return [name]
    matches = sorted(_remote_matches(name, scheme) if scheme else glob.glob(name, recursive=True))
    if not matches:
        raise ValueError(f"{shown(name)}: no file matches the pattern")
    return matches


def _remote_matches(pattern: str, scheme: str) -> list[str]:
    fs, path = filesystem(pattern)

    def matches() -> list[str]:
        with translated(pattern):
            return [f"{scheme}://{name}" for name in fs.glob(path)]

    return with_retries(pattern, matches)


def is_folder(location: str) -> bool:
    """Whether a location is a folder.

    A web server is not asked: a URL whose name ends like that of a shard or a table is a file.

    Raises:
        OSError: the server cannot be asked.
    """
    scheme = scheme_of(location)
    if not scheme:
        return local_path_of(location).is_dir()
    name = parent_and_name(location)[1]
    if _FILE_NAME.search(name):
        return False
    if scheme in HTTP:
        return True
    fs, path = filesystem(location)

    def ask() -> bool:
        with translated(location):
            return bool(fs.isdir(path))

    return with_retries(location, ask)


def read_bytes(location: str, retries: Retries = DEFAULT_RETRIES) -> bytes:
    """The content of a small file.

    Raises:
        FileNotFoundError: it does not exist.
        OSError: it cannot be read; of a remote file, after several attempts.
    """
    if not scheme_of(location):
        return local_path_of(location).read_bytes()
    with open_source(location, retries) as source:
        return with_retries(location, source.read_all, retries)
