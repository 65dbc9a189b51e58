"""Video parts of a request to the demo's judge, taken apart into images and audio."""

from __future__ import annotations

import base64
import binascii
import io
from typing import Any

import av
import numpy as np
import soundfile
from PIL import Image

from avrt.servers.content import audio_part, image_part


def without_videos(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The parts of a message with every video as its frames and its sound.

    Raises:
        ValueError: a video is not a data URL, or cannot be decoded.
    """
    has_audio = any(part.get("type") == "input_audio" for part in parts)
    result: list[dict[str, Any]] = []
    for part in parts:
        if part.get("type") != "video_url":
            result.append(part)
            continue
        head, comma, body = str(part["video_url"]["url"]).partition(",")
        if not comma or not head.startswith("data:video/"):
            raise ValueError("videos must be data URLs")
        try:
            frames, audio = _decode(base64.b64decode(body, validate=True))
        except (binascii.Error, av.FFmpegError) as error:
            raise ValueError(f"a video cannot be decoded: {error}") from error
        result += [image_part(frame, "image/png") for frame in frames]
        if audio and not has_audio:
            result.append(audio_part(audio))
    return result


def _decode(data: bytes) -> tuple[list[bytes], bytes]:
    """The frames of a video as PNG, and its audio as mono WAV; empty without audio."""
    with av.open(io.BytesIO(data), "r", format="mp4") as container:
        frames = []
        for frame in container.decode(video=0):
            buffer = io.BytesIO()
            Image.fromarray(frame.to_ndarray(format="rgb24")).save(buffer, format="PNG")
            frames.append(buffer.getvalue())
        if not container.streams.audio:
            return frames, b""
        container.seek(0)
        rate = container.streams.audio[0].rate
        samples = [frame.to_ndarray().mean(axis=0) for frame in container.decode(audio=0)]
    buffer = io.BytesIO()
    soundfile.write(buffer, np.concatenate(samples), rate, format="WAV", subtype="PCM_16")
    return frames, buffer.getvalue()
