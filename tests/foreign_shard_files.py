"""Writes shards as other tools do: webdataset's writer, GNU tar, and video2dataset's layout."""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import webdataset as wds
from PIL import Image

from avrt.data.foreign_index import index_shard
from avrt.data.tar_members import read_part
from tests.media_files import as_int16, numbered_frame, tone, write_audio, write_video


def question(number: int = 0, **changes: Any) -> dict[str, Any]:
    """A JSON member with AVQA's fields."""
    row = {
        "id": f"q-{number}",
        "video_name": f"clip_{number}",
        "question_text": f"question {number}?",
        "multi_choice": ["a dog", "a cat"],
        "answer": number % 2,
    }
    return {**row, **changes}


def clip_bytes(folder: Path, first: int = 0, *, seconds: int = 4, audio: bool = True) -> bytes:
    """A video whose frame at t seconds shows ``first + 10 t``, with a tone."""
    path = folder / f"{first}-{audio}.mp4"
    if not path.exists():
        sound = {"audio": as_int16(tone(200 + first, seconds, 16_000)), "audio_codec": "aac"} if audio else {}
        write_video(path, [numbered_frame(first + i) for i in range(10 * seconds)], **sound)
    return path.read_bytes()


def wav_bytes(folder: Path, seconds: float = 4.0) -> bytes:
    path = folder / f"{seconds}.wav"
    write_audio(path, as_int16(tone(440, seconds, 16_000)), 16_000)
    return path.read_bytes()


def image_bytes(number: int, kind: str = "PNG", width: int = 192) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(numbered_frame(number, width=width)).save(buffer, kind)
    return buffer.getvalue()


def write_shard(path: Path, *samples: Mapping[str, Any]) -> Path:
    """Write samples (``__key__`` and members) by webdataset's writer, which encodes dictionaries as JSON."""
    with wds.TarWriter(str(path)) as writer:
        for sample in samples:
            writer.write(dict(sample))
    return path


def write_video2dataset(path: Path, rows: list[tuple[str, dict[str, Any], bytes | None]]) -> Path:
    """Write video2dataset's members: ``json``, ``mp4`` and ``txt``; those of a failed download lack the ``mp4``."""
    samples = []
    for key, record, clip in rows:
        failed = {"status": "failed_to_download", "error_message": "HTTP Error 404: Not Found"}
        status = failed if clip is None else {"status": "success", "error_message": None}
        text = json.dumps({**record, "caption": "a clip", "key": key, **status, "yt_meta_dict": None}, indent=4)
        media = {} if clip is None else {"mp4": clip}
        samples.append({"__key__": key, **media, "txt": "a clip", "json": text.encode()})
    return write_shard(path, *samples)


def write_by_tar(path: Path, folder: Path, *options: str) -> Path:
    """Archive a folder's files by GNU tar."""
    subprocess.run(["tar", *options, "-cf", str(path), "-C", str(folder), "."], check=True)
    return path


def read_members(path: Path) -> dict[str, dict[str, bytes]]:
    """Members by key."""
    with path.open("rb") as file:
        return {
            entry.key: {
                name: read_part(file, str(path), offset, offset + size)
                for name, (offset, size) in entry.members.items()
            }
            for entry in index_shard(file, str(path))
        }


@pytest.fixture(scope="session")
def media_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder for the clips that tests put into shards."""
    return tmp_path_factory.mktemp("media")
