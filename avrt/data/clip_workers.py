"""Reading and encoding clips in a separate process: a codec that hangs or crashes costs one clip, not the run."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from avrt.data.records import IMAGE_FORMATS, EncodedClip, encode_clip
from avrt.media.clip_files import check_files
from avrt.media.defaults import MAX_AUDIO_SECONDS, MAX_FRAME_PIXELS, NUM_FRAMES
from avrt.media.geometry import TOKEN_PIXELS
from avrt.media.isolated import max_memory as memory_for
from avrt.media.media_process import MediaProcess


@dataclass(frozen=True)
class ClipSettings:
    """How media are read and encoded, see `avrt.media.reader.read_media` and `avrt.data.records.encode_clip`."""

    num_frames: int = NUM_FRAMES
    max_audio_seconds: float = MAX_AUDIO_SECONDS
    max_pixels: int = MAX_FRAME_PIXELS
    require_video: bool = True
    require_audio: bool = True
    image_format: str = "jpg"
    jpeg_quality: int = 95

    def __post_init__(self) -> None:
        # In a reading process, a wrong setting would count as a fault of every clip.
        if self.num_frames < 1:
            raise ValueError(f"num_frames: must be at least 1, got {self.num_frames}")
        if not 0 < self.max_audio_seconds < math.inf:
            raise ValueError(f"max_audio_seconds: must be positive and finite, got {self.max_audio_seconds:g}")
        if self.max_pixels < TOKEN_PIXELS:
            raise ValueError(f"max_pixels: must be at least {TOKEN_PIXELS} (one vision token), got {self.max_pixels}")
        if not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"jpeg_quality: must be 1 to 100, got {self.jpeg_quality}")
        if self.image_format not in IMAGE_FORMATS:
            raise ValueError(f"image_format: must be one of {', '.join(IMAGE_FORMATS)}, got {self.image_format!r}")

    def as_dict(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return asdict(self)


class ClipReader(MediaProcess[EncodedClip]):
    """Reads and encodes clips in a child process, one at a time.

    Args:
        settings: how to read and encode.
        timeout_seconds: longest time for one sample's files.
        max_memory: bytes that the child may allocate beyond what it has when it is ready; None for a bound that the
            frames kept fit into.
    """

    def __init__(self, settings: ClipSettings, *, timeout_seconds: float, max_memory: int | None = None) -> None:
        if max_memory is None:
            max_memory = memory_for(settings.num_frames, settings.max_pixels)
        super().__init__(_encode, timeout_seconds=timeout_seconds, max_memory=max_memory)
        self.settings = settings

    def __reduce__(self) -> tuple[Any, ...]:
        return _new_reader, (self.settings, self.timeout_seconds, self.max_memory)

    def read(self, path: Path) -> EncodedClip:
        """Read and encode one clip.

        Raises:
            MediaError: the clip cannot be used.
            ChildProcessError: the child process does not start.
        """
        return self.read_files(video=path)

    def read_files(
        self, *, video: Path | None = None, image: Path | None = None, audio: Path | None = None
    ) -> EncodedClip:
        """Read and encode the media of one sample from its files, see `avrt.media.reader.read_media`.

        Raises:
            ValueError: no file, or both a video and an image.
            MediaError: a file cannot be used.
            ChildProcessError: the child process does not start.
        """
        return self.call(check_files(video, image, audio), video, image, audio, self.settings)


def _new_reader(settings: ClipSettings, timeout_seconds: float, max_memory: int) -> ClipReader:
    return ClipReader(settings, timeout_seconds=timeout_seconds, max_memory=max_memory)


def _encode(video: Path | None, image: Path | None, audio: Path | None, settings: ClipSettings) -> EncodedClip:
    # Only the child decodes, so only the child loads FFmpeg.
    from avrt.media.reader import read_media

    clip = read_media(
        video=video,
        image=image,
        audio=audio,
        num_frames=settings.num_frames,
        max_audio_seconds=settings.max_audio_seconds,
        max_pixels=settings.max_pixels,
        require_video=settings.require_video,
        require_audio=settings.require_audio,
    )
    return encode_clip(clip, image_format=settings.image_format, jpeg_quality=settings.jpeg_quality)
