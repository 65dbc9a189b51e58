"""The files of a sample's media: which may be combined, and where a clip lies, named with or without its extension."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from avrt.media.errors import MediaError, MediaReason

EXTENSIONS = (
    *(".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".3gp", ".ogv"),
    *(".wav", ".flac", ".mp3", ".m4a", ".ogg", ".aac"),
)
"""Extensions of clips, in the order in which they are looked for, each in lower and upper case."""

_NO_SUCH_FOLDER = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
"""Extensions of images. A name needs one for its file to be read as an image."""


def has_extension(name: str) -> bool:
    """Whether a clip's name ends in a known extension."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def without_extension(name: str) -> str:
    """A clip's name without a known extension: ``c1`` for ``c1``, ``c1.mp4`` and ``c1.MKV``."""
    stem, extension = os.path.splitext(name)
    return stem if extension.lower() in EXTENSIONS else name


def is_image(name: str) -> bool:
    """Whether a file's name ends in the extension of an image."""
    return os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS


class ClipFolder:
    """Finds the files that annotations name below one folder.

    Every folder below is listed once, at its first use: on a network drive, asking for tens of thousands of files one
    by one takes minutes.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._listings: dict[str, frozenset[str]] = {}

    def find(self, name: str) -> Path | None:
        """The file of a clip, or None.

        A name that ends in a known extension is used unchanged if there is such a file. Then extensions are added to
        it, ``.mp4`` first; last they replace its own. If a path such as ``AVQA_R1/train/images/x.jpg`` is not below
        the folder, its first parts are left away one by one.
        """
        parts = name.split("/")
        for begin in range(len(parts)):
            below = "/".join(parts[begin:-1])
            names = self._names(below)
            found = next((file for file in _spellings(parts[-1]) if file in names), None) if names else None
            if found is not None:
                return self.folder / below / found
        return None

    def path(self, name: str) -> Path:
        """The file of a clip.

        Raises:
            MediaError: there is none; the message says what was looked for.
        """
        path = self.find(name)
        if path is not None:
            return path
        named = has_extension(name) or is_image(name)
        tried = self.folder / (name if named else f"{name}.mp4")
        detail = f"there is no file {tried}"
        if not named:
            detail += f", nor one of that name with another extension ({', '.join(EXTENSIONS[1:4])}, ...)"
        if "/" in name:
            detail += f", nor one by the end of that path, down to {self.folder / tried.name}"
        raise MediaError(MediaReason.MISSING_FILE, detail, tried)

    def _names(self, below: str) -> frozenset[str]:
        if below not in self._listings:
            try:
                self._listings[below] = frozenset(os.listdir(self.folder / below))
            except OSError as error:
                if error.errno not in _NO_SUCH_FOLDER:
                    raise
                self._listings[below] = frozenset()
        return self._listings[below]


def _spellings(name: str) -> Iterator[str]:
    """The names under which a clip's file is looked for, in order."""
    if has_extension(name) or is_image(name):
        yield name
    if not is_image(name):
        for stem in dict.fromkeys((name, without_extension(name))):
            for extension in EXTENSIONS:
                yield stem + extension
                yield stem + extension.upper()


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
