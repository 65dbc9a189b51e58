"""Annotations with reasoning packed to an S3 server: the same files as locally."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pyarrow
import pytest
from pyarrow import parquet

from avrt.cli import main
from tests.media_files import as_int16, numbered_frame, tone, write_video
from tests.traces.test_published import GOOD, SCHEMA, row

CLIPS = 4


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """The command without its output."""
    for clip in range(CLIPS):
        sound = as_int16(tone(300, 1, 16_000))
        write_video(
            tmp_path / f"-c{clip}_000030.mp4", [numbered_frame(i) for i in range(10)], audio=sound, audio_codec="aac"
        )
    rows = [row(number, GOOD) for number in range(2 * CLIPS)] + [row(99, None)]
    parquet.write_table(pyarrow.Table.from_pylist(rows, SCHEMA), tmp_path / "AVRT-20K.parquet")
    return [
        *("pack", "--annotations", str(tmp_path / "AVRT-20K.parquet"), "--videos", str(tmp_path)),
        *("--val-share", "0.4", "--workers", "1", "--out"),
    ]


def test_the_same_files_as_locally(words: list[str], bucket: str, tmp_path: Path) -> None:
    local = tmp_path / "local"
    assert main([*words, str(local)]) == 0
    fs = fsspec.filesystem("s3", use_listings_cache=False)
    root = bucket.removeprefix("s3://")
    for _ in range(2):  # the second run finds everything there
        assert main([*words, f"{bucket}/avrt20k"]) == 0
        stored = {path.removeprefix(f"{root}/avrt20k/"): fs.cat_file(path) for path in fs.find(root)}
        files = {path.relative_to(local).as_posix(): path for path in local.rglob("*") if path.is_file()}
        wanted = {
            name: path.read_bytes() for name, path in files.items() if ".pack" not in name and ".lock" not in name
        }
        assert stored == wanted
        assert {"train/manifest.json", "val/manifest.json", "val/left_out.jsonl", "statistics.json"} <= set(stored)
