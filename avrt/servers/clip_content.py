"""The media of a decoded clip as parts of a message."""

from __future__ import annotations

import hashlib
import io

import soundfile
from torchvision.io import encode_jpeg

from avrt.sample import SAMPLING_RATE, Clip
from avrt.servers.content import Content, audio_part, image_part

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
    if clip.waveform is not None and "A" in inputs:
        buffer = io.BytesIO()
        soundfile.write(buffer, clip.waveform.numpy(), SAMPLING_RATE, format="WAV", subtype="PCM_16")
        parts.append(audio_part(buffer.getvalue()))
    return parts


def media_digest(clip: Clip, inputs: str) -> str:
    """SHA-256 of the streams of a clip that `media_parts` sends: of the decoded values, which need no encoding."""
    digest = hashlib.sha256()
    for stream, name in ((clip.frames, "V"), (clip.waveform, "A")):
        if stream is not None and name in inputs:
            digest.update(f"{name} {list(stream.shape)} {stream.dtype} ".encode())
            digest.update(stream.contiguous().numpy().tobytes())
    return digest.hexdigest()
