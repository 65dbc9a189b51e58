"""Media files to clips: a few uniformly spaced frames with their times, and mono sound.

`read_clip` reads videos, `read_image` still pictures, `read_audio` sound files. All refuse what they cannot read
right with a `MediaError` whose `reason` is one of `MediaReason`, before they allocate memory for it.
"""

from __future__ import annotations

import math
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from avrt.media.audio import read_waveform
from avrt.media.errors import MediaError, MediaReason
from avrt.media.video import fit, frames_shown_at, presented_span, segment_centres
from avrt.sample import Clip

__all__ = ["MediaError", "MediaReason", "read_audio", "read_clip", "read_image"]

MAX_FRAME_PIXELS = 768 * 28 * 28
"""Default limit of the frames kept, in pixels: 768 vision tokens a frame."""

MAX_SOURCE_PIXELS = 4096 * 2304
"""Default limit of what is decoded at all, in pixels per picture: 4K passes, 8K does not."""

MAX_SOURCE_SECONDS = 4 * 3600.0
"""Default limit of a source's length."""

CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,gif,"
    "wav,w64,aiff,caf,au,mp3,aac,flac,ac3,eac3,amr,amrnb,amrwb"
)
"""Containers that are opened. Play lists, image sequences and text are not: they could name other files."""

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")


def read_clip(
    path: str | Path,
    *,
    num_frames: int = 8,
    max_audio_seconds: float = 10.0,
    max_pixels: int = MAX_FRAME_PIXELS,
    require_video: bool = True,
    require_audio: bool = True,
    max_source_pixels: int = MAX_SOURCE_PIXELS,
    max_source_seconds: float = MAX_SOURCE_SECONDS,
    threads: int = 1,
) -> Clip:
    """Read a video file: `num_frames` frames over its whole length, and sound from its start.

    Time 0 is the moment the first picture is presented, D the length of the video's presentation (edit lists
    applied). Frame i is the one on display at ``t_i = (i + 1/2) D / num_frames``, and ``fps = num_frames / D``.
    Sound is aligned to the same time 0. Of several streams FFmpeg's choice of the best one is taken (the largest
    picture, the most channels, "default" flags first), never cover art.

    Args:
        path: the file; any name, it is never taken for an option or an address.
        num_frames: frames to take; a clip with fewer repeats them.
        max_audio_seconds: length limit of the waveform.
        max_pixels: frames larger than this are scaled down, see `avrt.media.video.target_size`.
        require_video, require_audio: refuse a file without that stream; else that part of the clip is None.
        max_source_pixels, max_source_seconds: refuse what is larger or longer before decoding it.
        threads: decoder threads; 1 because packing already runs one process per core.

    Returns:
        A `Clip`; its `duration` is D, or the length of the sound where there is no video.

    Raises:
        MediaError: the file cannot be used; `reason` says why.
    """
    path = Path(path)
    if num_frames < 1:
        raise ValueError(f"num_frames: must be at least 1, is {num_frames}")
    if not 0 < max_audio_seconds < math.inf:
        raise ValueError(f"max_audio_seconds: must be positive and finite, is {max_audio_seconds}")
    with _open(path, max_source_pixels) as container:
        video, audio = _best_video(container), _best_audio(container)
        if video is None and (require_video or audio is None):
            raise MediaError(path, MediaReason.NO_VIDEO, "there is no video stream")
        if audio is None and require_audio:
            raise MediaError(path, MediaReason.NO_AUDIO, "there is no sound stream")
        if video is not None:
            _check_size(path, video.width, video.height, max_source_pixels)
        main: av.VideoStream | av.AudioStream | None = video or audio
        assert main is not None
        has_video, has_audio = video is not None, audio is not None
        span = presented_span(container, main, path)
    duration = float(span.duration)
    if duration > max_source_seconds:
        raise MediaError(path, MediaReason.TOO_LONG, f"{duration:.0f} s, the limit is {max_source_seconds:.0f} s")

    frames: torch.Tensor | None = None
    times: tuple[float, ...] = ()
    width = height = 0
    if has_video:
        times = segment_centres(duration, num_frames)
        with _open(path, max_source_pixels) as container:
            video = _best_video(container)
            assert video is not None
            video.codec_context.thread_count = threads
            # The size in the stream itself may be another one than in the container's header.
            video.codec_context.options = {"max_pixels": str(max_source_pixels)}
            frames, width, height = frames_shown_at(container, video, span, times, max_pixels=max_pixels, path=path)
    waveform: torch.Tensor | None = None
    if has_audio:
        with _open(path, max_source_pixels) as container:
            audio = _best_audio(container)
            assert audio is not None
            start = span.start if has_video else None
            waveform = read_waveform(container, audio, start=start, max_seconds=max_audio_seconds, path=path)
    return Clip(
        frames=frames,
        timestamps=times,
        fps=None if frames is None else num_frames / duration,
        waveform=waveform,
        duration=duration,
        width=width,
        height=height,
    )


def read_audio(
    path: str | Path, *, max_audio_seconds: float = 10.0, max_source_seconds: float = MAX_SOURCE_SECONDS
) -> Clip:
    """Read only the sound of a file (of a sound file, or of a video) from its start.

    Returns:
        A `Clip` without frames; `duration` is the length of the whole sound in seconds.

    Raises:
        MediaError: the file cannot be used; `reason` says why.
    """
    path = Path(path)
    if not 0 < max_audio_seconds < math.inf:
        raise ValueError(f"max_audio_seconds: must be positive and finite, is {max_audio_seconds}")
    with _open(path, MAX_SOURCE_PIXELS) as container:
        audio = _best_audio(container)
        if audio is None:
            raise MediaError(path, MediaReason.NO_AUDIO, "there is no sound stream")
        duration = float(presented_span(container, audio, path).duration)
    if duration > max_source_seconds:
        raise MediaError(path, MediaReason.TOO_LONG, f"{duration:.0f} s, the limit is {max_source_seconds:.0f} s")
    with _open(path, MAX_SOURCE_PIXELS) as container:
        audio = _best_audio(container)
        assert audio is not None
        waveform = read_waveform(container, audio, start=None, max_seconds=max_audio_seconds, path=path)
    return Clip(frames=None, waveform=waveform, duration=duration)


def read_image(
    path: str | Path, *, max_pixels: int = MAX_FRAME_PIXELS, max_source_pixels: int = 16 * MAX_SOURCE_PIXELS
) -> Clip:
    """Read a still picture, turned upright as its EXIF tag says, transparency over white.

    Returns:
        A `Clip` of one frame ``[1, 3, H, W]`` at time 0 with ``is_image=True`` and neither rate nor sound. Of an
        animation the first picture is taken.

    Raises:
        MediaError: the file cannot be used; `reason` says why.
    """
    path = Path(path)
    _check_file(path)
    try:
        # Only the header is read before the size is known; Pillow alone would merely warn about a bomb.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=IMAGE_FORMATS) as image:
                _check_size(path, image.width, image.height, max_source_pixels)
                upright = ImageOps.exif_transpose(image)
                if upright.has_transparency_data:
                    layered = upright.convert("RGBA")
                    white = Image.new("RGBA", layered.size, "white")
                    upright = Image.alpha_composite(white, layered)
                picture = upright.convert("RGB")
    except Image.DecompressionBombError as error:
        raise MediaError(path, MediaReason.TOO_LARGE, str(error)) from error
    except UnidentifiedImageError as error:
        raise MediaError(path, MediaReason.UNREADABLE, "no picture of a known format") from error
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, MediaError):
            raise
        raise MediaError(path, MediaReason.CORRUPT_IMAGE, str(error)) from error
    width, height = picture.size
    # A copy because the bytes object below it is read-only.
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(height, width, 3).permute(2, 0, 1)
    frame = fit(pixels, width, height, max_pixels, path)
    return Clip(frames=frame[None], timestamps=(0.0,), width=width, height=height, is_image=True)


@contextmanager
def _open(path: Path, max_source_pixels: int) -> Iterator[av.container.InputContainer]:
    """Open a local file of a known container; what is not one gives a typed reason."""
    _check_file(path)
    options = {
        # Even looking for stream parameters decodes a frame or two: the limit must hold there already.
        "max_pixels": str(max_source_pixels),
        "format_whitelist": CONTAINERS,
        "protocol_whitelist": "file",
    }
    try:
        # The scheme keeps names such as `concat:a|b` or `-x.mp4` plain file names.
        container = av.open(f"file:{path.absolute()}", options=options, metadata_errors="replace")
    except av.error.FFmpegError as error:
        raise MediaError(path, MediaReason.UNREADABLE, f"cannot be opened: {error.strerror}") from error
    with container:
        yield container


def _check_file(path: Path) -> None:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MediaError(path, MediaReason.MISSING_FILE, "there is no such file") from error
    except OSError as error:
        raise MediaError(path, MediaReason.UNREADABLE, str(error.strerror)) from error
    if not stat.S_ISREG(status.st_mode):
        # A named pipe would block for ever.
        raise MediaError(path, MediaReason.MISSING_FILE, "this is no regular file")
    if not status.st_size:
        raise MediaError(path, MediaReason.EMPTY_FILE, "the file has 0 bytes")


def _check_size(path: Path, width: int, height: int, max_source_pixels: int) -> None:
    if width * height > max_source_pixels:
        raise MediaError(path, MediaReason.TOO_LARGE, f"{width}x{height}, the limit is {max_source_pixels} pixels")


def _best_video(container: av.container.InputContainer) -> av.VideoStream | None:
    """FFmpeg's best video stream, cover art left out."""
    attached = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & attached]
    best = container.streams.best("video")
    return next((stream for stream in streams if stream is best), streams[0] if streams else None)


def _best_audio(container: av.container.InputContainer) -> av.AudioStream | None:
    """FFmpeg's best sound stream."""
    best = container.streams.best("audio")
    return best if isinstance(best, av.AudioStream) else None
