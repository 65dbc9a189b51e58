"""Folders of exported students on disk: written atomically, and the only folders that an export may replace.

A marker lists the files of a finished folder with their sizes. It shows that this project wrote the folder, so that a
later run may replace it. A folder without a marker, with a file that the marker does not list, or with a file of
another size (edited, or copied over the exported one) belongs to someone else and is never replaced.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from avrt.files.atomic import PARTIAL_SUFFIX
from avrt.files.atomic_folder import atomic_folder, neighbors, write_marker
from avrt.files.json_text import decode_json

MARKER = "avrt_student.json"


def write_student_folder(folder: Path, write: Callable[[Path], None], source: str | None = None) -> None:
    """Write a student's folder, or replace an exported one, in one step; see `avrt.files.atomic_folder.atomic_folder`.

    Args:
        write: writes a student's files into the empty folder that it is given.
        source: `student.path` of the run, which is never replaced.

    Raises:
        ValueError: `folder` may not be replaced, or what `write` raises.
        OSError: the folder cannot be written; the message names it.
    """
    folder = folder.resolve()
    _, old = neighbors(folder)
    if not folder.exists() and _is_ours(old):  # a kill on a file system that cannot exchange two names
        os.replace(old, folder)
    check_replaceable(folder, source)
    _remove(old)  # of a run that was killed
    with atomic_folder(folder, marker=MARKER, remove=_remove) as partial:
        # First without files, so that a folder left by a kill is recognized as ours.
        write_marker(partial / MARKER, None)
        write(partial)


def check_replaceable(folder: Path, source: str | None = None) -> None:
    """Refuse to replace a folder that is not a student exported by this project.

    Args:
        source: `student.path` of the run, if it is a folder.

    Raises:
        ValueError: `folder` holds something else, or it is the source or holds it.
    """
    place = folder.resolve()
    if source is not None and Path(source).is_dir():
        start = Path(source).resolve()
        if place == start or place in start.parents:
            raise ValueError(
                f"{folder} is or holds student.path ({source}), which an export never replaces; choose another folder"
            )
    for path in (place, *neighbors(place)):
        if not path.exists() or (path.is_dir() and all(p.name == MARKER + PARTIAL_SUFFIX for p in path.iterdir())):
            continue
        if not path.is_dir() or not (path / MARKER).is_file():
            raise ValueError(
                f"{path} exists and was not exported by this version of the project (it has no {MARKER}); move it away "
                "or choose another folder"
            )
    if folder.is_dir():
        listed = _read_marker(folder)
        extra = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir() or p.is_symlink())
        extra = [name for name in extra if name not in listed and name != MARKER]
        if extra:
            raise ValueError(
                f"{folder} cannot be replaced: the export did not write {extra[0]}; move the file away or choose "
                "another folder"
            )
        sizes = {name: (folder / name).stat().st_size for name in listed if (folder / name).is_file()}
        changed = [name for name, size in sizes.items() if size != listed[name]]
        if changed:
            raise ValueError(
                f"{folder} cannot be replaced: {changed[0]} was changed after the export; move the folder away or "
                "choose another one"
            )


def _read_marker(folder: Path) -> dict[str, Any]:
    """Sizes by name of a finished folder's files; nothing for an unfinished or foreign one."""
    try:
        files = decode_json((folder / MARKER).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return files if isinstance(files, dict) else {}


def _is_ours(folder: Path) -> bool:
    return bool(_read_marker(folder))


def _remove(folder: Path) -> None:
    """Delete a folder, marker last: after an interrupted deletion it is still recognized as ours."""
    if not folder.exists():
        return
    for path in folder.iterdir():
        if path.name == MARKER:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    (folder / MARKER).unlink(missing_ok=True)
    folder.rmdir()
