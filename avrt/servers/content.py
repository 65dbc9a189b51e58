"""Parts of a message in OpenAI's form: images, audio and text."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

Content = list[dict[str, Any]]
"""The parts of one user message."""


def image_part(data: bytes, mime: str = "image/jpeg") -> dict[str, Any]:
    """An encoded image inside the message."""
    return {"type": "image_url", "image_url": {"url": f"data:{mime};base64,{_base64(data)}"}}


def frames_part(images: Sequence[bytes]) -> dict[str, Any]:
    """Encoded images as the frames of one video, in vLLM's form.

    The form has no place for the frames' rate: it is sent beside the messages, in ``mm_processor_kwargs.fps``.
    """
    frames = ",".join(map(_base64, images))
    return {"type": "video_url", "video_url": {"url": f"data:video/jpeg;base64,{frames}"}}


def audio_part(wav: bytes) -> dict[str, Any]:
    """A WAV file inside the message."""
    return {"type": "input_audio", "input_audio": {"data": _base64(wav), "format": "wav"}}


def video_part(data: bytes, mime: str = "video/mp4") -> dict[str, Any]:
    """A video file inside the message, in the form of vLLM and others."""
    return {"type": "video_url", "video_url": {"url": f"data:{mime};base64,{_base64(data)}"}}


def file_part(kind: str, url: str) -> dict[str, Any]:
    """An image (``image_url``) or audio (``audio_url``) by its address."""
    return {"type": kind, kind: {"url": url}}


def text_part(text: str) -> dict[str, Any]:
    """Text."""
    return {"type": "text", "text": text}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
