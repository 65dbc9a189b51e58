"""The exception for media files that cannot be used, with a reason from a fixed list."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path


class MediaReason(StrEnum):
    """Every reason for which a media file is refused. The value is what reports and tables show."""

    MISSING_FILE = "missing_file"
    """No file of that name (a folder, a socket or a device counts as missing)."""
    EMPTY_FILE = "empty_file"
    """The file has 0 bytes."""
    UNREADABLE = "unreadable"
    """Not a media file of a known container, or its header is broken, cut off or claims the impossible."""
    UNKNOWN_CODEC = "unknown_codec"
    """The container is known, the codec of its video or audio is not."""
    NO_VIDEO = "no_video"
    """No video stream. Cover art attached to an audio file does not count."""
    NO_AUDIO = "no_audio"
    """No audio stream, or one without a single sample."""
    CORRUPT_VIDEO = "corrupt_video"
    """The video stream does not decode up to the last frame that is needed."""
    CORRUPT_AUDIO = "corrupt_audio"
    """The audio stream does not decode, or holds values that are not finite."""
    CORRUPT_IMAGE = "corrupt_image"
    """The image does not decode."""
    TRUNCATED = "truncated"
    """The streams end well before the length that the file's header promises."""
    TOO_LARGE = "too_large"
    """More pixels than the limit, in a frame (8K, decompression bombs) or in all frames that are kept."""
    TOO_LONG = "too_long"
    """Longer than the limit, or too many frames to decode between two key frames."""
    BAD_SHAPE = "bad_shape"
    """An aspect ratio beyond 200:1, which the vision encoder refuses."""
    NO_DURATION = "no_duration"
    """Neither the header nor the packets tell how long the stream is."""
    TIMEOUT = "timeout"
    """Decoding took longer than the time allowed for one clip."""
    OUT_OF_MEMORY = "out_of_memory"
    """Decoding takes more memory than allowed for one clip."""
    DECODER_CRASH = "decoder_crash"
    """The decoder failed as it should not (an error of no known kind), or the process that decoded the clip died."""


class MediaError(ValueError):
    """A media file that cannot be used.

    Attributes:
        reason: one of `MediaReason`.
        detail: the finding, in plain words.
        path: the file; `with_path` fills it in for code that has only a stream or a frame.
    """

    def __init__(self, reason: MediaReason, detail: str, path: str | Path | None = None) -> None:
        # These arguments make the exception again when it crosses a process boundary.
        super().__init__(reason, detail, path)
        self.reason = reason
        self.detail = detail
        self.path = None if path is None else Path(path)

    def __str__(self) -> str:
        file = "" if self.path is None else f"{self.path}: "
        return f"{file}{self.reason.value}: {self.detail}"


@contextmanager
def with_path(path: Path) -> Iterator[None]:
    """A `MediaError` that is raised inside the block names `path`."""
    try:
        yield
    except MediaError as error:
        error.path = path
        raise
