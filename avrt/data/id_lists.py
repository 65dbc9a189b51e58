"""Lists of sample ids: text files with one id per line, to which a set of questions or samples is limited."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from avrt.data.shards import ShardSet
from avrt.storage.locations import is_remote, read_bytes, shown

IdFiles = str | list[str]
"""One list, or several that count as one."""


def read_ids(path: str | Path) -> list[str]:
    """The ids of a list: one per line; blank lines and lines that begin with ``#`` are skipped.

    Args:
        path: a path or a URL.

    Raises:
        ValueError: not a text in UTF-8, an id twice, or none.
        OSError: cannot be read.
    """
    try:
        lines = read_bytes(str(path)).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{shown(path)}: is not a text in UTF-8; save it as one, with one id per line") from error
    ids = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not ids:
        raise ValueError(f"{shown(path)}: lists no ids")
    if len(set(ids)) < len(ids):
        twice = next(item for item, count in Counter(ids).items() if count > 1)
        raise ValueError(f"{shown(path)}: lists {twice!r} twice")
    return ids


def limit_samples(shards: ShardSet, only: IdFiles | None, never: IdFiles | None) -> tuple[ShardSet, list[str]]:
    """The samples of `only` that are not in `never`, and notes for the user.

    A list may have ids that the shards lack: it may be made for a larger set. They are counted in a note.

    Args:
        shards: the samples.
        only: keep the samples of these lists alone; None for all.
        never: drop the samples of these lists; None for none.

    Raises:
        ValueError: names the setting and the file; a list cannot be read, none of its ids is in the shards, or no
            sample is left.
        OSError: a remote list cannot be fetched.
    """
    if (only is None and never is None) or not len(shards):
        return shards, []
    known, notes = set(shards.keys), []
    where = "the shards" if shards.split is None else f"split {shards.split!r} of the shards"

    def listed(setting: str, files: IdFiles) -> set[str]:
        found: set[str] = set()
        for path in _files(setting, files):
            ids = _read(setting, path)
            absent = [item for item in ids if item not in known]
            if len(absent) == len(ids):
                raise ValueError(
                    f"{setting}: none of the {len(ids):,} ids in {shown(path)} is in {where} (the first is "
                    f"{ids[0]!r}, that of the first sample {shards.keys[0]!r}); give ids of these shards, or leave the "
                    "list out"
                )
            if absent:
                notes.append(
                    f"{setting}: {len(absent):,} of the {len(ids):,} ids in {shown(path)} are not in {where}, for "
                    f"example {absent[0]!r}."
                )
            found.update(ids)
        return found

    kept = known if only is None else known & listed("only", only)
    if never is not None:
        kept = kept - listed("never", never)
    if not kept:
        raise ValueError("never: drops every sample that is left; give other lists")
    notes.append(f"{len(kept):,} of {len(shards):,} samples are left by the lists.")
    return shards.subset(kept), notes


def _files(setting: str, files: IdFiles) -> Sequence[str]:
    listed = [files] if isinstance(files, str) else files
    if not listed:
        raise ValueError(f"{setting}: is an empty list; name a file of ids, or leave it out")
    return listed


def _read(setting: str, path: str) -> list[str]:
    try:
        return read_ids(path)
    except ValueError as error:
        raise ValueError(f"{setting}: {error}") from error
    except OSError as error:
        if is_remote(path):
            raise
        raise ValueError(f"{setting}: {shown(path)}: {error.strerror or error}") from error
