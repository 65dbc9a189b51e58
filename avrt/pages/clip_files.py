"""Frames and audio of a clip as small files beside a page.

A clip ``K`` becomes ``media/K/frame00.jpg`` ..., ``media/K/audio.flac`` and ``media/K/clip.json``, which is written
last: with it the clip is complete, and a second page in the same folder does not write it again.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from avrt.data.records import AUDIO_MEMBER, EncodedClip, decode_clip, encode_clip
from avrt.files.atomic import write_atomic
from avrt.files.json_text import decode_json
from avrt.media.video import fit
from avrt.sample import SAMPLING_RATE

MEDIA_FOLDER = "media"
CLIP_FILE = "clip.json"
THUMBNAIL_PIXELS = 384 * 216
JPEG_QUALITY = 80
_KEY = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class ShownClip:
    """The media of one clip on the page; paths are relative to the page.

    Attributes:
        frames: thumbnails in order of time.
        times: time of each frame in seconds.
        audio: audio file, or None.
        audio_seconds: length of the audio, at most what the model got.
        seconds: length of the source.
        width, height: display size of the source in pixels, 0 without frames.
        is_image: the one frame is an image.
        problem: why the clip cannot be shown, else None.
    """

    frames: tuple[str, ...] = ()
    times: tuple[float, ...] = ()
    audio: str | None = None
    audio_seconds: float = 0.0
    seconds: float = 0.0
    width: int = 0
    height: int = 0
    is_image: bool = False
    problem: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON values, without empty ones."""
        return {name: value for name, value in asdict(self).items() if value}


NO_MEDIA = ShownClip(problem="this page was created without media")


def clip_folder(out: Path, key: str) -> Path:
    """The folder of a clip's files; `key` has 16 hexadecimal digits."""
    return out / MEDIA_FOLDER / key


def write_clip(folder: Path, encoded: EncodedClip, made_from: dict[str, Any]) -> ShownClip:
    """Write a clip's files.

    Args:
        folder: see `clip_folder`; created.
        encoded: frames of the size that is shown, and audio.
        made_from: what the files are made of, as JSON values; `read_clip` compares it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shown = _write_members(folder, encoded)
    description = {"made_from": made_from, "shown": asdict(shown)}
    write_atomic(folder / CLIP_FILE, (json.dumps(description, indent=1) + "\n").encode())
    return shown


def read_clip(folder: Path, made_from: dict[str, Any]) -> ShownClip | None:
    """The clip as an earlier page wrote it from the same sources with the same settings, or None."""
    try:
        description = decode_json((folder / CLIP_FILE).read_text(encoding="utf-8"))
        if description["made_from"] != made_from:
            return None
        values = description["shown"]
        if set(values) != {field.name for field in fields(ShownClip)}:
            return None  # by another version of this program
        shown = ShownClip(**values | {"frames": tuple(values["frames"]), "times": tuple(values["times"])})
    except (OSError, ValueError, KeyError, TypeError):
        # Missing, or of something else: it is written again.
        return None
    files = [*shown.frames, *([shown.audio] if shown.audio else [])]
    return shown if all((folder.parents[1] / name).is_file() for name in files) else None


def remove_other_clips(out: Path, keys: Iterable[str]) -> None:
    """Remove clips of an earlier page in the same folder that this one does not have."""
    kept = set(keys)
    for folder in (out / MEDIA_FOLDER).glob("*"):
        if folder.name not in kept and _KEY.fullmatch(folder.name) and (folder / CLIP_FILE).is_file():
            shutil.rmtree(folder)


def thumbnails(stored: EncodedClip) -> EncodedClip:
    """A clip of a shard with small frames; its audio is unchanged.

    Raises:
        RecordError: its members do not decode.
    """
    clip = decode_clip(stored)
    if clip.frames is None:
        return stored
    _, _, height, width = clip.frames.shape
    small = torch.stack([fit(frame, width, height, THUMBNAIL_PIXELS) for frame in clip.frames])
    frames = encode_clip(replace(clip, frames=small, waveform=None), jpeg_quality=JPEG_QUALITY)
    audio = {name: data for name, data in stored.members.items() if name == AUDIO_MEMBER}
    return EncodedClip(frames.members | audio, stored.info)


def _write_members(folder: Path, encoded: EncodedClip) -> ShownClip:
    names = sorted(encoded.members)
    for name in names:
        write_atomic(folder / _file_name(name), encoded.members[name])
    info = encoded.info
    place = f"{MEDIA_FOLDER}/{folder.name}"
    return ShownClip(
        frames=tuple(f"{place}/{name}" for name in names if name.startswith("frame")),
        times=tuple(round(time, 3) for time in info["timestamps"]),
        audio=f"{place}/{_file_name(AUDIO_MEMBER)}" if AUDIO_MEMBER in names else None,
        audio_seconds=round(info["num_audio_samples"] / SAMPLING_RATE, 3),
        seconds=round(info["duration"], 3),
        width=info["width"],
        height=info["height"],
        is_image=info["is_image"],
    )


def _file_name(member: str) -> str:
    return "audio.flac" if member == AUDIO_MEMBER else member
