"""The files of a sample's media: which may be combined, and where a clip lies, named with or without its extension."""

from __future__ import annotations

import os
from pathlib import Path

from avrt.media.errors import MediaError, MediaReason

EXTENSIONS = (
    *(".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".3gp", ".ogv"),
    *(".wav", ".flac", ".mp3", ".m4a", ".ogg", ".aac"),
)
"""Extensions of clips, in the order in which they are looked for, each in lower and upper case."""


def has_extension(name: str) -> bool:
    """Whether a clip's name ends in a known extension."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def without_extension(name: str) -> str:
    """A clip's name without a known extension: ``c1`` for ``c1``, ``c1.mp4`` and ``c1.MKV``."""
    stem, extension = os.path.splitext(name)
    return stem if extension.lower() in EXTENSIONS else name


def find_clip(folder: Path, name: str) -> Path | None:
    """The file of a clip, or None.

    A name that ends in a known extension is used unchanged if there is such a file. Then extensions are added to it,
    ``.mp4`` first; last they replace its own.
    """
    if has_extension(name) and (folder / name).exists():
        return folder / name
    for stem in dict.fromkeys((name, without_extension(name))):
        for extension in EXTENSIONS:
            for written in (extension, extension.upper()):
                path = folder / f"{stem}{written}"
                if path.exists():
                    return path
    return None


def clip_file(folder: Path, name: str) -> Path:
    """The file of a clip.

    Raises:
        MediaError: there is none; the message says what was looked for.
    """
    path = find_clip(folder, name)
    if path is None:
        tried = folder / (name if has_extension(name) else f"{name}.mp4")
        detail = f"there is no file {tried}"
        if not has_extension(name):
            detail += f", nor one of that name with another extension ({', '.join(EXTENSIONS[1:4])}, ...)"
        raise MediaError(MediaReason.MISSING_FILE, detail, tried)
    return path


def check_files(video: str | Path | None, image: str | Path | None, audio: str | Path | None) -> Path:
    """The first of the files of one sample.

    Raises:
        ValueError: there is none, or both a video and an image.
    """
    if video is not None and image is not None:
        raise ValueError(f"a sample has a video or an image, not both: {video}, {image}")
    first = next((file for file in (video, image, audio) if file is not None), None)
    if first is None:
        raise ValueError("a sample's media are a video, an image or an audio file, none is named")
    return Path(first)
