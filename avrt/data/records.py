"""One sample as the members of a shard, and back: JSON, images, FLAC. Nothing here can run code from data.

A sample `K` becomes ``K.json``, ``K.frame00.jpg`` ... (or ``.png``) and ``K.flac``. The JSON member lists the size and
CRC-32 of the others and has one of its own, so that a damaged or partial sample is always noticed.
"""

from __future__ import annotations

import io
import json
import re
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import soundfile
import torch
from torchvision.io import ImageReadMode, decode_jpeg, decode_png, encode_jpeg, encode_png

from avrt.files.json_text import decode_json
from avrt.media.defaults import MAX_CLIP_PIXELS
from avrt.sample import SAMPLING_RATE, Clip, Sample, check_key

FORMAT_VERSION = 1
"""Version of the layout; readers refuse others."""

JSON_MEMBER = "json"
AUDIO_MEMBER = "flac"
MEMBER_PATTERN = re.compile(r"json|flac|frame([0-9]{2,4})\.(jpg|png)")
IMAGE_FORMATS = ("jpg", "png")
MAX_STORED_PIXELS = 2**26
"""Frames are scaled at packing; anything above 8192 x 8192 pixels is a decompression bomb."""
MAX_STORED_SAMPLES = 4 * 3600 * SAMPLING_RATE
"""Silence compresses without bound; anything above four hours is a decompression bomb."""

MAX_JSON_BYTES = 2**24
"""Parsed JSON takes up to 20 times its size."""

SAMPLE_FIELDS = (
    "id",
    "question",
    "options",
    "answer",
    "split",
    "question_type",
    "modality",
    "source",
    "trace",
    "teacher_traces",
    "extra",
)

RECORD_TYPES: dict[str, type | tuple[type, ...]] = {
    "id": str,
    "question": str,
    "options": list,
    "answer": int,
    "split": str,
    "question_type": str,
    "modality": str,
    "source": str,
    "trace": (str, type(None)),
    "teacher_traces": dict,
    "extra": dict,
    "clip": dict,
    "members": dict,
}


class RecordError(ValueError):
    """The members of a sample are incomplete or damaged.

    Attributes:
        reason: ``bad_json``, ``missing_member``, ``extra_member``, ``checksum`` or ``bad_media``.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class EncodedClip:
    """The media of one sample as stored in a shard.

    Attributes:
        members: encoded bytes by member name (``frame00.jpg``, ``flac``).
        info: their description in the JSON member: timestamps, fps, duration in seconds, width and height in pixels,
            is_image, num_frames, num_audio_samples.
    """

    members: dict[str, bytes]
    info: dict[str, Any]


def encode_clip(clip: Clip, *, image_format: str = "jpg", jpeg_quality: int = 95) -> EncodedClip:
    """Encode frames as JPEG or PNG and audio as 16-bit FLAC.

    The audio is rounded to 1/32768 of full scale and otherwise lossless. PNG keeps the frames exactly, at about six
    times JPEG's size.

    Raises:
        ValueError: audio beyond full scale, which FLAC would clip, or a waveform or frames of a wrong type.
    """
    if image_format not in IMAGE_FORMATS:
        raise ValueError(f"image_format: must be one of {', '.join(IMAGE_FORMATS)}, got {image_format!r}")
    members: dict[str, bytes] = {}
    if clip.frames is not None:
        if clip.frames.dtype != torch.uint8 or clip.frames.ndim != 4 or clip.frames.shape[1] != 3:
            raise ValueError(f"frames must be uint8 [T, 3, H, W], got {clip.frames.dtype} {list(clip.frames.shape)}")
        if len(clip.timestamps) != len(clip.frames):
            raise ValueError(f"{len(clip.frames)} frames have {len(clip.timestamps)} timestamps")
        # Numbers of one width, so that the order of names is the order of frames.
        digits = max(2, len(str(len(clip.frames) - 1)))
        for index, frame in enumerate(clip.frames):
            image = frame.contiguous()
            data = encode_jpeg(image, quality=jpeg_quality) if image_format == "jpg" else encode_png(image)
            members[f"frame{index:0{digits}d}.{image_format}"] = data.numpy().tobytes()
    if clip.waveform is not None:
        members[AUDIO_MEMBER] = _encode_flac(clip.waveform)
    info = {
        "timestamps": list(clip.timestamps),
        "fps": clip.fps,
        "duration": clip.duration,
        "width": clip.width,
        "height": clip.height,
        "is_image": clip.is_image,
        "num_frames": 0 if clip.frames is None else len(clip.frames),
        "num_audio_samples": 0 if clip.waveform is None else len(clip.waveform),
    }
    return EncodedClip(members, info)


def decode_clip(encoded: EncodedClip) -> Clip:
    """The reverse of `encode_clip`.

    Raises:
        RecordError: ``bad_media``: the members do not decode, or not to what `info` says.
    """
    info = encoded.info
    frames, waveform = None, None
    if info["num_frames"]:
        names = sorted(name for name in encoded.members if name.startswith("frame"))
        if len(names) != info["num_frames"]:
            raise RecordError("bad_media", f"{len(names)} frames instead of {info['num_frames']}")
        frames = _decode_frames({name: encoded.members[name] for name in names})
    if info["num_audio_samples"]:
        waveform = _decode_flac(encoded.members[AUDIO_MEMBER])
        if len(waveform) != info["num_audio_samples"]:
            raise RecordError("bad_media", f"{len(waveform)} audio samples instead of {info['num_audio_samples']}")
    return Clip(
        frames=frames,
        timestamps=tuple(info["timestamps"]),
        fps=info["fps"],
        waveform=waveform,
        duration=info["duration"],
        width=info["width"],
        height=info["height"],
        is_image=info["is_image"],
    )


def sample_members(sample: Sample, encoded: EncodedClip) -> dict[str, bytes]:
    """All members of one sample by name, the JSON member included."""
    check_key(sample.id)
    record: dict[str, Any] = {name: getattr(sample, name) for name in SAMPLE_FIELDS}
    record["options"] = list(sample.options)
    if sample.audio_source:
        record["audio_source"] = sample.audio_source
    record["clip"] = encoded.info
    record["members"] = {name: [len(data), zlib.crc32(data)] for name, data in sorted(encoded.members.items())}
    record["format_version"] = FORMAT_VERSION
    try:
        body = _canonical(record)
        record["crc32"] = zlib.crc32(body)
        return {JSON_MEMBER: _canonical(record), **encoded.members}
    except (TypeError, ValueError) as error:
        raise ValueError(f"sample {sample.id!r}: `extra` and traces must hold JSON values only: {error}") from error


def parse_json(data: bytes) -> Any:
    """A JSON member's content.

    Raises:
        RecordError: ``bad_json``.
    """
    try:
        return decode_json(data)
    except ValueError as error:
        raise RecordError("bad_json", f"the JSON member does not parse: {error}") from error


def parse_record(data: bytes, key: str) -> dict[str, Any]:
    """Read and check a JSON member.

    Raises:
        RecordError: ``bad_json`` or ``checksum``.
    """
    if len(data) > MAX_JSON_BYTES:
        raise RecordError("bad_json", f"the JSON member has {len(data)} bytes")
    record = parse_json(data)
    if not isinstance(record, dict):
        raise RecordError("bad_json", "the JSON member is not an object")
    version = record.get("format_version")
    if version != FORMAT_VERSION:
        raise RecordError("bad_json", f"format version {version!r}; this reader knows {FORMAT_VERSION}")
    stated = record.pop("crc32", None)
    if stated != zlib.crc32(_canonical(record)):
        raise RecordError("checksum", "the JSON member's checksum is wrong")
    wrong = [name for name, kinds in RECORD_TYPES.items() if not isinstance(record.get(name), kinds)]
    if wrong:
        raise RecordError("bad_json", f"the JSON member lacks {', '.join(wrong)}, or has another type there")
    if record.get("id") != key:
        raise RecordError("bad_json", f"the JSON member is about sample {record.get('id')!r}")
    return record


def check_names(record: Mapping[str, Any], names: set[str]) -> None:
    """Compare the media members present with those the JSON member lists.

    Raises:
        RecordError: ``missing_member`` or ``extra_member``.
    """
    listed = set(record["members"])
    if missing := sorted(listed - names):
        raise RecordError("missing_member", f"lacks {', '.join(missing)}")
    if extra := sorted(names - listed):
        raise RecordError("extra_member", f"has {', '.join(extra)}, which its JSON member does not list")


def check_members(record: Mapping[str, Any], members: Mapping[str, bytes]) -> None:
    """Compare media members with the sizes and checksums that the JSON member lists.

    Raises:
        RecordError: ``missing_member``, ``extra_member`` or ``checksum``.
    """
    check_names(record, set(members))
    for name, (size, crc) in record["members"].items():
        data = members[name]
        if len(data) != size or zlib.crc32(data) != crc:
            raise RecordError("checksum", f"{name} is damaged: its checksum is wrong")


def to_sample(record: Mapping[str, Any], clip: Clip | None = None) -> Sample:
    """The sample that a JSON member describes."""
    fields = {name: record[name] for name in SAMPLE_FIELDS}
    fields["options"] = tuple(fields["options"])
    return Sample(clip=clip, audio_source=str(record.get("audio_source", "")), **fields)


def _canonical(record: Mapping[str, Any]) -> bytes:
    """The same bytes for equal records, so that a checksum can be computed."""
    return json.dumps(record, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _encode_flac(waveform: torch.Tensor) -> bytes:
    if waveform.dtype != torch.float32 or waveform.ndim != 1 or not len(waveform):
        raise ValueError(f"the waveform must be float32 [S], got {waveform.dtype} {list(waveform.shape)}")
    if not torch.isfinite(waveform).all():
        raise ValueError("the waveform holds values that are not finite")
    peak = float(waveform.abs().max())
    if peak > 1:
        raise ValueError(f"the waveform peaks at {peak:.3f}, beyond FLAC's full scale of 1; scale it down")
    # Scaled here with rounding: libsndfile stores an int16 array unchanged, but scales floats by its own rules.
    integers = torch.clamp(torch.round(waveform * 32768), -32768, 32767).to(torch.int16)
    buffer = io.BytesIO()
    soundfile.write(buffer, integers.numpy(), SAMPLING_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def _decode_flac(data: bytes) -> torch.Tensor:
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            if file.format != "FLAC" or file.samplerate != SAMPLING_RATE or file.channels != 1:
                form = f"{file.format}, {file.channels} channels at {file.samplerate} Hz"
                raise RecordError("bad_media", f"the audio is {form}, not mono FLAC at {SAMPLING_RATE} Hz")
            if not 0 < file.frames <= MAX_STORED_SAMPLES:
                raise RecordError("bad_media", f"the audio claims {file.frames} samples")
            integers = file.read(dtype="int16", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise RecordError("bad_media", f"the audio does not decode: {error}") from error
    return torch.from_numpy(integers[:, 0]).to(torch.float32).div_(32768)


def _decode_frames(members: Mapping[str, bytes]) -> torch.Tensor:
    """Images of one size as uint8 ``[T, 3, H, W]``, with the channels last in memory."""
    claimed = sum(_claimed_pixels(name, data) for name, data in members.items())
    if claimed > MAX_CLIP_PIXELS:
        raise RecordError(
            "bad_media", f"{len(members)} frames claim {claimed:,} pixels, the limit is {MAX_CLIP_PIXELS:,}"
        )
    frames: torch.Tensor | None = None
    for index, (name, data) in enumerate(members.items()):
        # The decoders write the three colors of a pixel side by side; reordering them here would cost as much as
        # decoding, and turning the frames into patches or floats copies them anyway.
        image = _decode_frame(name, data).permute(1, 2, 0)
        if frames is None:
            frames = torch.empty((len(members), *image.shape), dtype=torch.uint8)
        if image.shape != frames.shape[1:]:
            raise RecordError("bad_media", f"{name} has another size than the frames before it")
        # Copied one by one, so that each image's memory is used again for the next.
        frames[index] = image
    assert frames is not None
    return frames.permute(0, 3, 1, 2)


def _claimed_pixels(name: str, data: bytes) -> int:
    """The pixels that an image's header claims, within the limit: torchvision would allocate whatever it says."""
    try:
        width, height = _png_size(data) if name.endswith(".png") else _jpeg_size(data)
    except (ValueError, IndexError, struct.error) as error:
        raise RecordError("bad_media", f"{name} has no image header") from error
    if width * height > MAX_STORED_PIXELS:
        raise RecordError("bad_media", f"{name} claims {width}x{height} pixels")
    return width * height


def _decode_frame(name: str, data: bytes) -> torch.Tensor:
    # torch.frombuffer needs writable memory.
    buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    try:
        if name.endswith(".png"):
            return decode_png(buffer, mode=ImageReadMode.RGB)
        return decode_jpeg(buffer, mode=ImageReadMode.RGB)
    except RuntimeError as error:
        raise RecordError("bad_media", f"{name} does not decode: {error}") from error


def _png_size(data: bytes) -> tuple[int, int]:
    """Width and height that a PNG file's first chunk claims."""
    if data[:8] != b"\x89PNG\r\n\x1a\n" or data[12:16] != b"IHDR":
        raise ValueError("not a PNG file")
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Width and height that a JPEG file's frame header claims."""
    if data[:2] != b"\xff\xd8":
        raise ValueError("not a JPEG file")
    position = 2
    while True:
        if data[position] != 0xFF:
            raise ValueError("not a JPEG marker")
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[position + 5 : position + 9])
            return width, height
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
