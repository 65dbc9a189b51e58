"""The clip as the judge gets it: frames and audio as in the traces' calls, or one video file."""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from avrt.data.records import AUDIO_MEMBER, EncodedClip, decode_clip
from avrt.judging.config import JudgeServerConfig
from avrt.media.clip_files import ClipFolder
from avrt.sample import SAMPLING_RATE, Clip
from avrt.servers.content import Content, audio_part, image_part, video_part
from avrt.traces.call_records import media_hash
from avrt.traces.stage_content import IMAGE_TYPES, flac_to_wav

VIDEO_TYPES = {".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/quicktime", ".webm": "video/webm"}
"""Files that servers take as a video."""

TICKS = 1000
"""Time units per second in the video files that are made here."""


class JudgeMedia:
    """The media of the judge's calls.

    Args:
        config: checked settings.
    """

    def __init__(self, config: JudgeServerConfig) -> None:
        self._form = config.media
        self._streams = config.streams
        self._hears_video = config.hears_video
        self._folder = None if config.videos is None else ClipFolder(config.videos)
        self._digests: dict[str, str] = {}

    def streams(self, members: dict[str, tuple[int, int]]) -> str:
        """The streams that the judge gets of a clip: ``AV``, ``A``, ``V`` or nothing."""
        has = {"A": AUDIO_MEMBER in members, "V": any(name != AUDIO_MEMBER for name in members)}
        return "".join(stream for stream in self._streams if has[stream])

    def describe(self, members: dict[str, tuple[int, int]]) -> str:
        """The media in words, for the prompt."""
        streams = self.streams(members)
        frames = sum(name != AUDIO_MEMBER for name in members)
        if self._form == "none" or not streams:
            return "no media, so judge by the texts alone"
        if self._form.startswith("video") and "V" in streams:
            if "A" not in streams:
                return "the clip as a video, but not its audio"
            if self._form == "video":
                return "the clip as a video with its audio"
            return f"the clip as a video, and its audio {'once more ' * self._hears_video}as an audio file"
        images = f"{frames} frames of the clip, in order and evenly spaced over its length"
        if streams == "AV":
            return f"{images}, and its audio"
        return f"{images}, but not its audio" if streams == "V" else "the audio of the clip, but no images"

    def digest(self, members: dict[str, tuple[int, int]], source: str) -> str:
        """Identifies what is sent, for the key of a call; empty for nothing.

        Raises:
            MediaError: the folder of videos has no file for the clip.
        """
        streams = self.streams(members)
        sent = [name for name in members if ("A" if name == AUDIO_MEMBER else "V") in streams]
        digest = media_hash(members, sorted(sent))
        if not digest or not self._form.startswith("video"):
            return digest
        if self._folder is not None and "V" in streams:
            digest = self._file_digest(self._folder.path(source))
        return f"{self._form}:{digest}"

    def content(self, clip: EncodedClip, source: str) -> Content:
        """The parts of a message.

        Raises:
            MediaError: the folder of videos has no file for the clip.
        """
        streams = self.streams(dict.fromkeys(clip.members, (0, 0)))
        if not streams:
            return []
        parts: Content = []
        as_video = self._form.startswith("video")
        if as_video and self._folder is not None and "V" in streams:
            path = self._folder.path(source)
            parts.append(video_part(path.read_bytes(), VIDEO_TYPES.get(path.suffix.lower(), "video/mp4")))
        elif as_video and "V" in streams:
            shown = decode_clip(clip)
            parts.append(video_part(encode_video(shown if "A" in streams else replace(shown, waveform=None))))
        elif "V" in streams:
            names = sorted(name for name in clip.members if name != AUDIO_MEMBER)
            parts += [image_part(clip.members[name], IMAGE_TYPES[name.rpartition(".")[2]]) for name in names]
        if "A" in streams and (not parts or self._form != "video"):
            parts.append(audio_part(flac_to_wav(clip.members[AUDIO_MEMBER])))
        return parts

    def _file_digest(self, path: Path) -> str:
        """SHA-256 of a file, read once."""
        name = str(path)
        if name not in self._digests:
            self._digests[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return self._digests[name]


def encode_video(clip: Clip) -> bytes:
    """An mp4 file (H.264, AAC) of a clip's frames at their times, and of its audio if it has any."""
    assert clip.frames is not None
    frames = np.moveaxis(clip.frames.numpy(), 1, -1)
    height, width = (size - size % 2 for size in frames.shape[1:3])  # H.264 needs even sizes
    rate = Fraction(clip.fps or 1).limit_denominator(TICKS)
    buffer = io.BytesIO()
    # `bitexact` keeps library versions out of the file, one encoder thread keeps the bytes the same on every run.
    with av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        video = container.add_stream("libx264", rate=rate, options={"crf": "18"})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.codec_context.thread_count = 1
        video.codec_context.time_base = Fraction(1, TICKS)
        audio = None
        if clip.waveform is not None:
            audio = container.add_stream("aac", rate=SAMPLING_RATE, layout="mono")
        for number, array in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array[:height, :width]), format="rgb24")
            frame.pts, frame.time_base = round(number * TICKS / rate), Fraction(1, TICKS)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None and clip.waveform is not None:
            samples = av.AudioFrame.from_ndarray(clip.waveform.numpy()[None, :], format="fltp", layout="mono")
            samples.sample_rate = SAMPLING_RATE
            container.mux(audio.encode(samples))
            container.mux(audio.encode(None))
    return buffer.getvalue()
