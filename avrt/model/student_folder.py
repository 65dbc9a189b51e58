"""Folders of exported students on disk: whole or absent, and the only folders that an export may replace.

A marker lists the files of a finished folder with their sizes. It says that this project wrote the folder, so that a
later run may replace it; a folder without one, with a file that the marker does not list, or with one of another size
(edited, or copied over the export's) belongs to someone else.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from avrt.files.atomic import PARTIAL_SUFFIX, sync_file, sync_folder, write_atomic
from avrt.model.checkpoints import exchange

MARKER = "avrt_student.json"


def write_student_folder(folder: Path, write: Callable[[Path], None], source: str | None = None) -> None:
    """Make `folder` a student's folder: `write` fills a neighbor, which then takes the name in one step.

    A kill at any moment leaves the older student or the new one, whole; an error leaves the older one and no neighbor.

    Args:
        write: writes a student's files into the empty folder that it is given.
        source: `student.path` of the run, which is never replaced.

    Raises:
        ValueError: `folder` may not be replaced, or what `write` raises.
        OSError: it cannot be written; names the folder.
    """
    folder = folder.resolve()
    partial, old = _neighbors(folder)
    if not folder.exists() and _is_ours(old):  # a kill on a file system that cannot exchange two names
        os.replace(old, folder)
    check_replaceable(folder, source)
    for leftover in (partial, old):  # of a run that was killed
        _remove(leftover)
    partial.mkdir(parents=True)
    _write_marker(partial, None)
    try:
        write(partial)
        files = [path for path in sorted(partial.rglob("*")) if path.is_file() and path.name != MARKER]
        for file in files:
            sync_file(file)
        _write_marker(partial, {str(file.relative_to(partial)): file.stat().st_size for file in files})
    except OSError as error:
        _remove(partial)
        if error.errno is not None and error.filename is None:
            raise OSError(error.errno, error.strerror, str(folder)) from error
        raise
    except BaseException:
        _remove(partial)
        raise
    if not folder.exists() or not any(folder.iterdir()):
        os.replace(partial, folder)
    elif not exchange(partial, folder):
        os.replace(folder, old)
        os.replace(partial, folder)
    sync_folder(folder.parent)
    for leftover in (partial, old):
        _remove(leftover)


def check_replaceable(folder: Path, source: str | None = None) -> None:
    """Refuse to replace anything but a student that this project has exported.

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
                f"{folder} is or holds model.init_args.student.path ({source}), which an export never replaces; choose "
                "another folder"
            )
    for path in (place, *_neighbors(place)):
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


def _neighbors(folder: Path) -> tuple[Path, Path]:
    """The folder being written, and the older one where two names cannot be exchanged."""
    return folder.with_name(folder.name + PARTIAL_SUFFIX), folder.with_name(folder.name + ".old" + PARTIAL_SUFFIX)


def _write_marker(folder: Path, sizes: dict[str, int] | None) -> None:
    """Written first without files, so that a folder left by a kill is known; last with them."""
    write_atomic(folder / MARKER, json.dumps({"format": 1, "files": sizes}, indent=1).encode())


def _read_marker(folder: Path) -> dict[str, Any]:
    """Sizes by name of a finished folder's files; nothing for an unfinished or foreign one."""
    try:
        files = json.loads((folder / MARKER).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return files if isinstance(files, dict) else {}


def _is_ours(folder: Path) -> bool:
    return bool(_read_marker(folder))


def _remove(folder: Path) -> None:
    """Delete a folder with the marker last, so that one whose deletion was cut off is still known."""
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
