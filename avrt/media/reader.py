"""Media files to clips: a few uniformly spaced frames with their times, and mono audio.

`read_clip` reads videos, `read_image` images, `read_audio` audio files, and `read_media` the files of one sample. A
file that cannot be read correctly raises a `MediaError` whose `reason` is one of `MediaReason`, before memory is
allocated for it.
"""

from __future__ import annotations

import math
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TypeVar

import av
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from avrt.media.audio import read_waveform
from avrt.media.clip_files import check_files
from avrt.media.defaults import MAX_AUDIO_SECONDS, MAX_FRAME_PIXELS, NUM_FRAMES
from avrt.media.errors import MediaError, MediaReason, with_path
from avrt.media.frame_walk import FrameWalk, UnexpectedFrameError
from avrt.media.span import Span, presented_span
from avrt.media.video import fit, frames_shown_at, segment_centers
from avrt.sample import Clip

MAX_SOURCE_PIXELS = 4096 * 2304
"""Limit on the pixels of a decoded video frame: 4K passes, 8K does not."""

MAX_IMAGE_PIXELS = 16 * MAX_SOURCE_PIXELS
"""Limit on the pixels of a decoded image."""

MAX_SOURCE_SECONDS = 4 * 3600.0
"""Default limit on a source's length."""

StreamT = TypeVar("StreamT", av.VideoStream, av.AudioStream)

CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,gif,"
    "wav,w64,aiff,caf,au,mp3,aac,flac,ac3,eac3,amr,amrnb,amrwb"
)
"""Containers that are opened. Play lists, image sequences and text are not: they could name other files."""

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")


def read_media(
    *,
    video: str | Path | None = None,
    image: str | Path | None = None,
    audio: str | Path | None = None,
    num_frames: int = NUM_FRAMES,
    frames_per_second: float | None = None,
    max_audio_seconds: float = MAX_AUDIO_SECONDS,
    max_pixels: int = MAX_FRAME_PIXELS,
    require_video: bool = True,
    require_audio: bool = True,
    max_source_seconds: float = MAX_SOURCE_SECONDS,
) -> Clip:
    """Read the media of one sample from its files: a video or an image, an audio file, or both.

    Audio is read from the video; the audio file is used where the video has none, and with an image.

    Args:
        video, image, audio: the files; at least one, and not both a video and an image.
        num_frames, frames_per_second, max_audio_seconds, max_pixels, max_source_seconds: see `read_clip`.
        require_video: refuse a sample without frames (of a video or an image); else that part of the clip is None.
        require_audio: the same for audio.

    Raises:
        ValueError: no file, or both a video and an image.
        MediaError: a file cannot be used; `path` is that file, `reason` says why.
    """
    check_files(video, image, audio)
    clip: Clip | None = None
    if video is not None:
        clip = read_clip(
            video,
            num_frames=num_frames,
            frames_per_second=frames_per_second,
            max_audio_seconds=max_audio_seconds,
            max_pixels=max_pixels,
            require_video=require_video,
            require_audio=require_audio and audio is None,
            max_source_seconds=max_source_seconds,
        )
    elif image is not None:
        clip = read_image(image, max_pixels=max_pixels)
        if require_audio and audio is None:
            raise MediaError(MediaReason.NO_AUDIO, "an image, and no audio file is named", Path(image))
    if audio is None or (clip is not None and clip.waveform is not None):
        assert clip is not None
        return clip
    separate = read_audio(audio, max_audio_seconds=max_audio_seconds, max_source_seconds=max_source_seconds)
    if clip is not None:
        return replace(clip, waveform=separate.waveform, duration=clip.duration or separate.duration)
    if require_video:
        raise MediaError(MediaReason.NO_VIDEO, "an audio file, and neither a video nor an image is named", Path(audio))
    return separate


def read_clip(
    path: str | Path,
    *,
    num_frames: int = NUM_FRAMES,
    frames_per_second: float | None = None,
    max_audio_seconds: float = MAX_AUDIO_SECONDS,
    max_pixels: int = MAX_FRAME_PIXELS,
    require_video: bool = True,
    require_audio: bool = True,
    max_source_seconds: float = MAX_SOURCE_SECONDS,
) -> Clip:
    """Read a video file: `num_frames` frames over its whole length, and audio from its start.

    Time 0 is the moment the first frame is presented, D the length of the video's presentation from there (edit lists
    applied). In a stream that was cut inside a group of pictures, that is the first frame that decodes: frames of the
    cut group cannot be shown, and audio that belongs to them is cut as well, so that the rest stays aligned.
    Frame i is the one on display at ``t_i = (i + 1/2) D / num_frames``, and ``fps = num_frames / D``. Audio is aligned
    to the same time 0. Of several streams, FFmpeg's choice is taken (the largest frames, the most channels, "default"
    flags first), never cover art.

    Args:
        path: the file; any name works, it is never taken for an option or an address.
        num_frames: frames to take; a clip with fewer repeats them.
        frames_per_second: take this many frames per second of the video instead, at least one and at most `num_frames`.
        max_audio_seconds: length limit of the waveform.
        max_pixels: frames larger than this are scaled down, see `avrt.media.video.target_size`.
        require_video, require_audio: refuse a file without that stream; else that part of the clip is None.
        max_source_seconds: refuse longer sources before decoding them.

    Returns:
        A `Clip`; its `duration` is D, or the length of the audio where there is no video.

    Raises:
        MediaError: the file cannot be used; `reason` says why.
    """
    path = Path(path)
    if num_frames < 1:
        raise ValueError(f"num_frames: must be at least 1, got {num_frames}")
    if frames_per_second is not None and not 0 < frames_per_second < math.inf:
        raise ValueError(f"frames_per_second: must be positive and finite, got {frames_per_second}")
    _check_audio_limit(max_audio_seconds)
    with with_path(path):
        with _open(path) as container:
            video, audio = _best_video(container), _best_audio(container)
            if video is None and (require_video or audio is None):
                raise MediaError(MediaReason.NO_VIDEO, "there is no video stream")
            if audio is None and require_audio:
                raise MediaError(MediaReason.NO_AUDIO, "there is no audio stream")
            if video is not None:
                _check_size(video.width, video.height, MAX_SOURCE_PIXELS)
            has_video, has_audio = video is not None, audio is not None
            span = _checked_span(container, video or audio, max_source_seconds)
        frames: torch.Tensor | None = None
        times: tuple[Fraction, ...] = ()
        width = height = 0
        if has_video:
            span, times, frames, width, height = _read_frames(path, span, num_frames, frames_per_second, max_pixels)
        waveform: torch.Tensor | None = None
        if has_audio:
            start = span.start if has_video else None
            waveform = _read_waveform(path, start, max_audio_seconds)
    return Clip(
        frames=frames,
        timestamps=tuple(map(float, times)),
        fps=None if frames is None else float(len(times) / span.duration),
        waveform=waveform,
        duration=float(span.duration),
        width=width,
        height=height,
    )


def read_audio(
    path: str | Path,
    *,
    max_audio_seconds: float = MAX_AUDIO_SECONDS,
    max_source_seconds: float = MAX_SOURCE_SECONDS,
) -> Clip:
    """Read only the audio of a file (an audio file, or a video) from its start.

    Returns:
        A `Clip` without frames; `duration` is the length of the whole audio in seconds.

    Raises:
        MediaError: the file cannot be used; `reason` says why.
    """
    path = Path(path)
    _check_audio_limit(max_audio_seconds)
    with with_path(path):
        with _open(path) as container:
            audio = _best_audio(container)
            if audio is None:
                raise MediaError(MediaReason.NO_AUDIO, "there is no audio stream")
            duration = float(_checked_span(container, audio, max_source_seconds).duration)
        waveform = _read_waveform(path, None, max_audio_seconds)
    return Clip(frames=None, waveform=waveform, duration=duration)


def read_image(path: str | Path, *, max_pixels: int = MAX_FRAME_PIXELS) -> Clip:
    """Read an image, rotated as its EXIF tag says, transparency over white.

    Returns:
        A `Clip` of one frame ``[1, 3, H, W]`` at time 0 with ``is_image=True``, without rate or audio. An animation
        gives its first frame.

    Raises:
        MediaError: the file cannot be used; `reason` says why.
    """
    path = Path(path)
    with with_path(path):
        _check_file(path)
        image = _decode_image(path)
        width, height = image.size
        # A copy because the bytes object below it is read-only.
        pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(height, width, 3).permute(2, 0, 1)
        frame = fit(pixels, width, height, max_pixels)
    return Clip(frames=frame[None], timestamps=(0.0,), width=width, height=height, is_image=True)


def _decode_image(path: Path) -> Image.Image:
    try:
        # Only the header is read before the size is known; Pillow alone would merely warn about a bomb.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=IMAGE_FORMATS) as image:
                _check_size(image.width, image.height, MAX_IMAGE_PIXELS)
                upright = ImageOps.exif_transpose(image)
                if upright.has_transparency_data:
                    layered = upright.convert("RGBA")
                    white = Image.new("RGBA", layered.size, "white")
                    upright = Image.alpha_composite(white, layered)
                return upright.convert("RGB")
    except MediaError:
        raise
    except Image.DecompressionBombError as error:
        raise MediaError(MediaReason.TOO_LARGE, str(error)) from error
    except UnidentifiedImageError as error:
        raise MediaError(MediaReason.UNREADABLE, "not an image of a known format") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise MediaError(MediaReason.CORRUPT_IMAGE, str(error)) from error


def _read_frames(
    path: Path, span: Span, num_frames: int, frames_per_second: float | None, max_pixels: int
) -> tuple[Span, tuple[Fraction, ...], torch.Tensor, int, int]:
    """The span from the first frame that decodes, the moments, and `frames_shown_at` them."""
    try:
        with FrameWalk(partial(_open_video, path), span) as walk:
            span = span.beginning_at(walk.first_moment)
            if not span.duration:
                raise MediaError(MediaReason.CORRUPT_VIDEO, "no frame decodes before the end")
            count = num_frames
            if frames_per_second is not None:
                count = min(num_frames, max(1, round(span.duration * Fraction(frames_per_second))))
            times = segment_centers(span.duration, count)
            return span, times, *frames_shown_at(walk, span, times, max_pixels=max_pixels)
    except UnexpectedFrameError:
        return _read_frames(path, replace(span, ticks=()), num_frames, frames_per_second, max_pixels)


@contextmanager
def _open_video(path: Path) -> Iterator[av.VideoStream]:
    with _open(path) as container:
        video = _best_video(container)
        assert video is not None
        video.codec_context.thread_count = 1  # packing runs one process per core
        # The size in the stream itself may differ from the one in the container's header.
        video.codec_context.options = {"max_pixels": str(MAX_SOURCE_PIXELS)}
        yield video


def _read_waveform(path: Path, start: Fraction | None, max_audio_seconds: float) -> torch.Tensor:
    with _open(path) as container:
        audio = _best_audio(container)
        assert audio is not None
        return read_waveform(container, audio, start=start, max_seconds=max_audio_seconds)


def _checked_span(
    container: av.container.InputContainer, stream: av.VideoStream | av.AudioStream | None, max_source_seconds: float
) -> Span:
    assert stream is not None
    if stream.frames > container.size > 0:
        detail = f"its header claims {stream.frames:,} packets in a file of {container.size:,} bytes"
        raise MediaError(MediaReason.UNREADABLE, detail)
    span = presented_span(container, stream)
    if span.duration > max_source_seconds:
        raise MediaError(MediaReason.TOO_LONG, f"{float(span.duration):.0f} s, the limit is {max_source_seconds:.0f} s")
    return span


@contextmanager
def _open(path: Path) -> Iterator[av.container.InputContainer]:
    """Open a local file of a known container; any other file raises a `MediaError`."""
    _check_file(path)
    options = {
        # Even looking for stream parameters decodes a frame or two: the limit must hold there already.
        "max_pixels": str(MAX_SOURCE_PIXELS),
        "format_whitelist": CONTAINERS,
        "protocol_whitelist": "file",
    }
    try:
        # The scheme keeps names such as `concat:a|b` or `-x.mp4` plain file names.
        container = av.open(f"file:{path.absolute()}", options=options, metadata_errors="replace")
    except av.error.FFmpegError as error:
        raise MediaError(MediaReason.UNREADABLE, f"cannot be opened: {error.strerror}") from error
    with container:
        yield container


def _check_audio_limit(seconds: float) -> None:
    if not 0 < seconds < math.inf:
        raise ValueError(f"max_audio_seconds: must be positive and finite, got {seconds}")


def _check_file(path: Path) -> None:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MediaError(MediaReason.MISSING_FILE, "there is no such file") from error
    except OSError as error:
        raise MediaError(MediaReason.UNREADABLE, str(error.strerror)) from error
    if not stat.S_ISREG(status.st_mode):
        # A named pipe would block forever.
        raise MediaError(MediaReason.MISSING_FILE, "this is not a regular file")
    if not status.st_size:
        raise MediaError(MediaReason.EMPTY_FILE, "the file has 0 bytes")


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise MediaError(MediaReason.TOO_LARGE, f"{width}x{height}, the limit is {max_pixels} pixels")


def _best_video(container: av.container.InputContainer) -> av.VideoStream | None:
    """FFmpeg's best video stream, cover art left out."""
    attached = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & attached]
    return _decodable(streams, container.streams.best("video"))


def _best_audio(container: av.container.InputContainer) -> av.AudioStream | None:
    """FFmpeg's best audio stream."""
    best = container.streams.best("audio")
    return None if best is None else _decodable(list(container.streams.audio), best)


def _decodable(streams: list[StreamT], best: av.stream.Stream | None) -> StreamT | None:
    """The best of the streams, or the first with a known codec if that of the best is unknown; None without streams."""
    if not streams:
        return None
    streams.sort(key=lambda stream: stream is not best)
    known = [stream for stream in streams if stream.codec_context is not None]
    if not known:
        raise MediaError(MediaReason.UNKNOWN_CODEC, f"no codec of FFmpeg decodes the {streams[0].type} stream")
    return known[0]
