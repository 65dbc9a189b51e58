"""The media of a decoded clip as parts of a message."""

from __future__ import annotations

import hashlib
import io

import soundfile
from torchvision.io import encode_jpeg, encode_png

from avrt.sample import SAMPLING_RATE, Clip
from avrt.servers.content import Content, audio_part, frames_part, image_part

JPEG_QUALITY = 95


def media_parts(clip: Clip, inputs: str, jpeg_quality: int = JPEG_QUALITY) -> Content:
    """A clip's frames as JPEG and its audio as 16-bit WAV, in OpenAI's form.

    Args:
        inputs: streams that are sent: ``AV``, ``A``, ``V``, or nothing.
        jpeg_quality: 1 to 100.
    """
    parts: Content = []
    if clip.frames is not None and "V" in inputs:
        for frame in clip.frames:
            parts.append(image_part(bytes(encode_jpeg(frame.contiguous(), quality=jpeg_quality).numpy())))
    return parts + _audio_parts(clip, inputs, "PCM_16")


def student_media_parts(clip: Clip, inputs: str) -> Content:
    """The same as a student of this project was trained on them: the frames are one video, and nothing is lost.

    Audio is a WAV of 32-bit floats. vLLM decodes the parts of a ``data:video/jpeg`` with Pillow, which tells PNG from
    JPEG by itself.
    """
    parts: Content = []
    if clip.frames is not None and "V" in inputs:
        images = [bytes(encode_png(frame.contiguous()).numpy()) for frame in clip.frames]
        parts.append(image_part(images[0], "image/png") if clip.is_image else frames_part(images))
    return parts + _audio_parts(clip, inputs, "FLOAT")


def _audio_parts(clip: Clip, inputs: str, subtype: str) -> Content:
    if clip.waveform is None or "A" not in inputs:
        return []
    buffer = io.BytesIO()
    soundfile.write(buffer, clip.waveform.numpy(), SAMPLING_RATE, format="WAV", subtype=subtype)
    return [audio_part(buffer.getvalue())]


def media_digest(clip: Clip, inputs: str) -> str:
    """SHA-256 of the streams of a clip that `media_parts` sends: of the decoded values, which need no encoding."""
    digest = hashlib.sha256()
    for stream, name in ((clip.frames, "V"), (clip.waveform, "A")):
        if stream is not None and name in inputs:
            digest.update(f"{name} {list(stream.shape)} {stream.dtype} ".encode())
            digest.update(stream.contiguous().numpy().tobytes())
    return digest.hexdigest()
