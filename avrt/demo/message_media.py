"""The parts of a request's messages: text, and media inside them, as the demo's server decodes them."""

from __future__ import annotations

import base64
import binascii
import io
from typing import Any

import numpy as np
import soundfile
from PIL import Image, UnidentifiedImageError


class BadRequestError(ValueError):
    """A request that a model cannot answer: the wrong kind of media, or none."""


def message_parts(message: dict[str, Any]) -> list[dict[str, Any]]:
    """The parts of a message, which may be plain text."""
    content = message.get("content")
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise BadRequestError("a message without content")
    return content


def decode_image(part: dict[str, Any]) -> np.ndarray:
    """uint8 ``[3, height, width]`` of an ``image_url`` part with a data URL."""
    head, comma, body = part["image_url"]["url"].partition(",")
    if not comma or not head.startswith("data:image/"):
        raise BadRequestError("images must be data URLs")
    return _decode_image(body)


def decode_frames(part: dict[str, Any]) -> np.ndarray:
    """uint8 ``[T, 3, height, width]`` of a ``video_url`` part with one encoded image per frame."""
    head, _, body = part["video_url"]["url"].partition(",")
    if head != "data:video/jpeg;base64":
        raise BadRequestError("a video must be a data URL of type video/jpeg: its frames as JPEG, with commas between")
    frames = [_decode_image(frame) for frame in body.split(",")]
    if len({frame.shape for frame in frames}) > 1:
        raise BadRequestError("the frames of a video must have one size")
    return np.stack(frames)


def _decode_image(body: str) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(base64.b64decode(body, validate=True)), formats=("JPEG", "PNG")) as image:
            return np.moveaxis(np.asarray(image.convert("RGB")), -1, 0)
    except (binascii.Error, UnidentifiedImageError, OSError) as error:
        raise BadRequestError(f"an image cannot be decoded: {error}") from error


def decode_audio(part: dict[str, Any]) -> tuple[np.ndarray, int]:
    """Mono samples in -1 to 1, and their rate, of an ``input_audio`` part."""
    try:
        data = base64.b64decode(part["input_audio"]["data"], validate=True)
        samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except (binascii.Error, soundfile.LibsndfileError) as error:
        raise BadRequestError(f"the audio cannot be decoded: {error}") from error
    return samples.mean(axis=1), rate
