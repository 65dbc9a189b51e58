"""Atomic writing of folders: filled under a temporary name, then renamed in one step.

While a folder is being written, its name ends in ``.partial``. A marker file, written last, can list the files with
their sizes, so that a folder that was copied or deleted in part is recognized.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from avrt.files.atomic import PARTIAL_SUFFIX, sync_file, sync_folder, write_atomic
from avrt.files.checksums import checksums
from avrt.files.json_text import decode_json

OLD_SUFFIX = ".old" + PARTIAL_SUFFIX
"""Ends the name of a folder that is being replaced, on file systems that cannot exchange two names."""


def remove_tree(path: Path) -> None:
    """Delete a folder if it exists."""
    if path.exists():
        shutil.rmtree(path)


@contextmanager
def atomic_folder(
    folder: Path, *, marker: str | None = None, remove: Callable[[Path], None] = remove_tree
) -> Iterator[Path]:
    """Fill an empty neighbor of `folder` in the block; it takes the name `folder` at the end.

    A kill at any moment leaves the older folder or the new one, whole; an exception leaves the older one. On file
    systems that cannot exchange two names, a kill may leave the older one under `OLD_SUFFIX`.

    Args:
        marker: name of the file that lists the others; None for none.
        remove: deletes a folder that may be absent.

    Raises:
        OSError: the folder cannot be written; the message names it.
    """
    partial = start_folder(folder, remove)
    try:
        yield partial
        finish_folder(folder, marker=marker, remove=remove)
    except OSError as error:
        remove(partial)
        if error.errno is not None and error.filename is None:
            # A full disk is reported without a name.
            raise OSError(error.errno, error.strerror, str(folder)) from error
        raise
    except BaseException:
        remove(partial)
        raise


def start_folder(folder: Path, remove: Callable[[Path], None] = remove_tree) -> Path:
    """An empty folder to write `folder` into. Of several processes, one calls this before the others begin."""
    partial, _ = neighbors(folder)
    remove(partial)
    partial.mkdir(parents=True)
    return partial


def finish_folder(
    folder: Path,
    *,
    marker: str | None = None,
    with_checksums: bool = False,
    remove: Callable[[Path], None] = remove_tree,
) -> None:
    """Give a folder of `start_folder` its name. Of several processes, one calls this when all have written.

    Args:
        marker, remove: as for `atomic_folder`.
        with_checksums: the marker states each file's checksum too.
    """
    partial, old = neighbors(folder)
    found = sorted(partial.rglob("*"))
    files = [file for file in found if file.is_file() and file.name != marker]
    for file in files:
        sync_file(file)
    for inner in (path for path in found if path.is_dir()):
        sync_folder(inner)
    if marker is not None:
        names = [str(file.relative_to(partial)) for file in files]
        sizes = {name: file.stat().st_size for name, file in zip(names, files, strict=True)}
        sums = dict(zip(names, checksums(files), strict=True)) if with_checksums else None
        write_marker(partial / marker, sizes, sums)
    sync_folder(partial)
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        os.replace(partial, folder)
    elif not exchange(partial, folder):
        remove(old)
        os.replace(folder, old)
        try:
            os.replace(partial, folder)
        except OSError:
            os.replace(old, folder)
            raise
    sync_folder(folder.parent)
    # The replaced folder is deleted last: that takes long for many gigabytes, and a kill meanwhile loses nothing.
    for leftover in (partial, old):
        remove(leftover)


def neighbors(folder: Path) -> tuple[Path, Path]:
    """The folder being written, and the replaced one where two names cannot be exchanged."""
    return folder.with_name(folder.name + PARTIAL_SUFFIX), folder.with_name(folder.name + OLD_SUFFIX)


def write_marker(file: Path, sizes: dict[str, int] | None, sums: dict[str, str] | None = None) -> None:
    """Write a marker.

    Args:
        sizes: in bytes, by relative name; None while the folder is unfinished.
        sums: the files' checksums; None leaves them out.
    """
    content: dict[str, Any] = {"format": 1, "files": sizes}
    if sums is not None:
        content |= {"format": 2, "checksums": sums}
    write_atomic(file, json.dumps(content, indent=1).encode())


def read_marker(file: Path) -> tuple[dict[str, int], dict[str, str] | None]:
    """Sizes and checksums of a marker.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged.
    """
    try:
        content = decode_json(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"its {file.name} is damaged") from error
    keys = {"1": {"format", "files"}, "2": {"format", "files", "checksums"}}
    if not isinstance(content, dict) or content.keys() != keys.get(str(content.get("format"))):
        raise ValueError(f"its {file.name} is damaged, or of a later version")
    sizes, sums = content["files"], content.get("checksums", content["files"])
    if not isinstance(sizes, dict) or not isinstance(sums, dict) or sums.keys() != sizes.keys() or not sizes:
        raise ValueError(f"its {file.name} is damaged")
    return sizes, content.get("checksums")


def exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step, so that neither is ever missing; False where the file system cannot (some network
    file systems)."""
    libc = ctypes.CDLL(None, use_errno=True)
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE of renameat2(2)
    return hasattr(libc, "renameat2") and libc.renameat2(here, os.fsencode(one), here, os.fsencode(other), swap) == 0
