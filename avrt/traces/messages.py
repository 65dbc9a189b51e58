"""A call's messages in OpenAI's form: frames as ``image_url`` parts, sound as ``input_audio``, then the text."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import soundfile

from avrt.data.records import AUDIO_MEMBER, EncodedClip
from avrt.files.atomic import atomic_file
from avrt.servers.config import Stage

_MIME = {"jpg": "image/jpeg", "png": "image/png"}


def sent_members(stage: Stage, names: list[str]) -> list[str]:
    """Which media members of a sample a stage sends, in order: the vision teacher's frames, the audio teacher's sound.

    Args:
        names: all media members of the sample.
    """
    if stage == "vision":
        return sorted(name for name in names if name.startswith("frame"))
    if stage == "audio":
        return [AUDIO_MEMBER] if AUDIO_MEMBER in names else []
    return []


def build_content(stage: Stage, clip: EncodedClip | None, prompt: str) -> list[dict[str, Any]]:
    """The content of the one user message, media inside it.

    Frames go as they stand in the shard; sound goes as 16-bit WAV, which every server reads, sample for sample what
    the shard's FLAC holds.
    """
    parts: list[dict[str, Any]] = []
    if clip is not None:
        for name in sent_members(stage, list(clip.members)):
            if name == AUDIO_MEMBER:
                data = _base64(flac_to_wav(clip.members[name]))
                parts.append({"type": "input_audio", "input_audio": {"data": data, "format": "wav"}})
            else:
                url = f"data:{_MIME[name.rpartition('.')[2]]};base64,{_base64(clip.members[name])}"
                parts.append({"type": "image_url", "image_url": {"url": url}})
    return [*parts, {"type": "text", "text": prompt}]


def build_file_content(
    stage: Stage, clip: EncodedClip | None, prompt: str, folder: Path, sample_id: str, digest: str
) -> list[dict[str, Any]]:
    """The same with ``file://`` addresses of copies in `folder`, for vLLM servers that share the disk.

    Sound goes as ``audio_url``: ``input_audio`` has no address form.

    Args:
        digest: hash of the media; part of the copies' names, so that a changed clip never meets an old copy.
    """
    parts: list[dict[str, Any]] = []
    if clip is not None:
        for name in sent_members(stage, list(clip.members)):
            is_sound = name == AUDIO_MEMBER
            path = folder.resolve() / f"{sample_id}.{digest[:12]}.{'wav' if is_sound else name}"
            if not path.exists():
                folder.mkdir(parents=True, exist_ok=True)
                with atomic_file(path) as file:
                    file.write(flac_to_wav(clip.members[name]) if is_sound else clip.members[name])
            kind = "audio_url" if is_sound else "image_url"
            parts.append({"type": kind, kind: {"url": path.as_uri()}})
    return [*parts, {"type": "text", "text": prompt}]


def flac_to_wav(data: bytes) -> bytes:
    """16-bit FLAC to 16-bit WAV, without loss; equal input gives equal bytes."""
    samples, rate = soundfile.read(io.BytesIO(data), dtype="int16", always_2d=True)
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
