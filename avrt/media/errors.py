"""Why a media file was refused: one exception with a reason out of a fixed list."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path


class MediaReason(StrEnum):
    """Every reason for which a media file is refused. The value is what reports and tables show."""

    MISSING_FILE = "missing_file"
    """No file of that name (a folder, a socket or a device counts as missing)."""
    EMPTY_FILE = "empty_file"
    """The file has 0 bytes."""
    UNREADABLE = "unreadable"
    """Not a media file of a known container, or its header is broken or cut off."""
    NO_VIDEO = "no_video"
    """No moving picture. Cover art attached to a sound file is none."""
    NO_AUDIO = "no_audio"
    """No sound stream, or one without a single sample."""
    CORRUPT_VIDEO = "corrupt_video"
    """The video stream does not decode up to the last frame that is needed."""
    CORRUPT_AUDIO = "corrupt_audio"
    """The sound stream does not decode, or holds values that are not finite."""
    CORRUPT_IMAGE = "corrupt_image"
    """The still picture does not decode."""
    TRUNCATED = "truncated"
    """The streams end well before the length that the file's header promises."""
    TOO_LARGE = "too_large"
    """More pixels per picture than the limit (8K, decompression bombs)."""
    TOO_LONG = "too_long"
    """Longer than the limit, or too many pictures to decode between two key frames."""
    BAD_SHAPE = "bad_shape"
    """An aspect ratio beyond 200:1, which the vision encoder refuses."""
    NO_DURATION = "no_duration"
    """Neither the header nor the packets tell how long the stream is."""
    TIMEOUT = "timeout"
    """Packing only: decoding took longer than the time allowed for one clip."""
    DECODER_CRASH = "decoder_crash"
    """Packing only: the process that decoded the clip died (a fault in a codec, or out of memory)."""


class MediaError(ValueError):
    """A media file that cannot be used.

    Attributes:
        path: the file.
        reason: one of `MediaReason`.
        detail: what exactly was found, in plain words.
    """

    def __init__(self, path: str | Path, reason: MediaReason, detail: str) -> None:
        super().__init__(f"{path}: {reason.value}: {detail}")
        self.path = Path(path)
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[MediaError], tuple[Path, MediaReason, str]]:
        # The default would call the class with the message alone when the error crosses a process boundary.
        return type(self), (self.path, self.reason, self.detail)
