"""A call's message: frames as ``image_url`` parts, audio as ``input_audio``, then the text."""

from __future__ import annotations

import io
from pathlib import Path

import soundfile

from avrt.data.records import AUDIO_MEMBER, EncodedClip
from avrt.files.atomic import atomic_file
from avrt.servers.content import Content, audio_part, file_part, frames_part, image_part, text_part

IMAGE_TYPES = {"jpg": "image/jpeg", "png": "image/png"}


def is_frame(name: str) -> bool:
    """Whether a media member is a frame."""
    return name.startswith("frame")


def sent_members(streams: str, names: list[str]) -> list[str] | None:
    """The media members of a sample that are sent, in order; None if it lacks one of the streams.

    Args:
        streams: ``AV``, ``A``, ``V``, or nothing.
        names: all media members of the sample.
    """
    frames = sorted(filter(is_frame, names)) if "V" in streams else []
    audio = [AUDIO_MEMBER] if "A" in streams and AUDIO_MEMBER in names else []
    return None if ("V" in streams) > bool(frames) or ("A" in streams) > bool(audio) else [*frames, *audio]


def build_content(streams: str, clip: EncodedClip, prompt: str, as_video: bool = False) -> Content:
    """The content of the one user message, media inside it.

    Frames are sent as they are in the shard. Audio is sent as 16-bit WAV, which every server reads, with the same
    samples as the shard's FLAC.

    Args:
        streams: ``AV``, ``A``, ``V``, or nothing.
        clip: as stored in the shard.
        prompt: the text, which comes last.
        as_video: send the frames as one video, as students are trained; an image stays an image.
    """
    parts: Content = []
    sent = sent_members(streams, list(clip.members)) or []
    if as_video and not clip.info["is_image"] and (frames := [name for name in sent if is_frame(name)]):
        parts.append(frames_part([clip.members[name] for name in frames]))
        sent = sent[len(frames) :]
    for name in sent:
        data = clip.members[name]
        is_audio = name == AUDIO_MEMBER
        parts.append(
            audio_part(flac_to_wav(data)) if is_audio else image_part(data, IMAGE_TYPES[name.rpartition(".")[2]])
        )
    return [*parts, text_part(prompt)]


def build_file_content(
    streams: str, clip: EncodedClip, prompt: str, folder: Path, sample_id: str, digest: str
) -> Content:
    """The same with ``file://`` addresses of copies in `folder`, for vLLM servers that share the disk.

    Audio is sent as ``audio_url``: ``input_audio`` cannot contain an address.

    Args:
        digest: hash of the media; part of the copies' names, so that an old copy is never used for a changed clip.
    """
    parts: Content = []
    for name in sent_members(streams, list(clip.members)) or ():
        is_audio = name == AUDIO_MEMBER
        path = folder.resolve() / f"{sample_id}.{digest[:12]}.{'wav' if is_audio else name}"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            with atomic_file(path) as file:
                file.write(flac_to_wav(clip.members[name]) if is_audio else clip.members[name])
        parts.append(file_part("audio_url" if is_audio else "image_url", path.as_uri()))
    return [*parts, text_part(prompt)]


def flac_to_wav(data: bytes) -> bytes:
    """16-bit FLAC to 16-bit WAV, without loss; deterministic."""
    samples, rate = soundfile.read(io.BytesIO(data), dtype="int16", always_2d=True)
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()
