"""Names of media files in rows: paths below the folder of videos, or media that lie in the rows themselves."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avrt.data.annotations.rows import RowError, RowReason
from avrt.files.atomic import PARTIAL_SUFFIX

_URL = re.compile(r"(?!file://)[A-Za-z][A-Za-z0-9+.-]*://|data:")

_SIGNATURES = (
    (re.compile(rb"RIFF....WAVE", re.DOTALL), ".wav"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), ".webp"),
    (re.compile(rb"fLaC"), ".flac"),
    (re.compile(rb"OggS"), ".ogg"),
    (re.compile(rb"ID3|\xff[\xe2-\xff]"), ".mp3"),
    (re.compile(rb"....ftyp", re.DOTALL), ".mp4"),
    (re.compile(rb"\x1a\x45\xdf\xa3"), ".mkv"),
    (re.compile(rb"\x89PNG"), ".png"),
    (re.compile(rb"\xff\xd8\xff"), ".jpg"),
)
"""First bytes of files, with the extension of their kind."""


@dataclass(frozen=True)
class Embedded:
    """A file whose bytes are in the row, as `datasets` stores images and audio."""

    data: bytes


def media_name(value: Any, key: str) -> str | Embedded | None:
    """The file that a row names under `key`, as a relative path, or its bytes; None where there is none.

    A leading ``/`` or ``./`` is removed: files are looked for below one folder (`avrt.media.clip_files`).

    Raises:
        RowError: several files, an address of the web, or a path that leaves its folder.
    """
    if isinstance(value, list | tuple):
        if len(value) > 1:
            raise RowError(RowReason.BAD_MEDIA, f"`{key}` names {len(value)} files; a question has one of a kind")
        value = value[0] if value else None
    if isinstance(value, dict):
        if value.get("bytes"):
            return Embedded(bytes(value["bytes"]))
        value = value.get("path")
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise RowError(RowReason.BAD_MEDIA, f"`{key}` must be the clip's name as a text, got {value!r}")
    if _URL.match(value):
        raise RowError(RowReason.BAD_MEDIA, f"`{key}` is an address, {value[:80]!r}; download the file and name it")
    parts = [part for part in value.removeprefix("file://").split("/") if part not in ("", ".")]
    if not parts or ".." in parts or "\\" in value or "\0" in value or value.endswith("/"):
        raise RowError(
            RowReason.BAD_MEDIA,
            f"`{key}` must be a plain file name or a path inside the videos' folder, got {value!r}",
        )
    return "/".join(parts)


def write_embedded(media: Embedded, folder: Path) -> str:
    """Write media of a row below ``folder/embedded`` unless it is there; return the relative path.

    The file is named by its content, so rows about one clip share it, and files of two sets never meet.

    Raises:
        RowError: the bytes are of no known kind.
    """
    extension = next((ending for pattern, ending in _SIGNATURES if pattern.match(media.data)), None)
    if extension is None:
        raise RowError(RowReason.BAD_MEDIA, f"the media in the row begins with {media.data[:8]!r}: of no known kind")
    relative = f"embedded/{hashlib.sha256(media.data).hexdigest()[:32]}{extension}"
    path = folder / relative
    if not path.exists() or path.stat().st_size != len(media.data):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not synced: a set has 170,000 files, and one that a power cut left empty is written again.
        partial = path.with_name(path.name + PARTIAL_SUFFIX)
        partial.write_bytes(media.data)
        partial.replace(path)
    return relative
