"""Completeness of the safetensors files of a model folder: an interrupted download is named by its file."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_AGAIN = "its download was interrupted; download it again"
_LFS = b"version https://git-lfs"


def check_weight_files(folder: Path) -> None:
    """Compare the size of each weight file with the one that its header states; no weights are read.

    Raises:
        ValueError: a file is missing, empty, truncated or no safetensors file; the message names it.
    """
    for file in weight_files(folder):
        size = file.stat().st_size
        if size == 0:
            raise ValueError(f"{file} is empty: {_AGAIN}")
        stated = _stated_size(file, size)
        if size < stated:
            raise ValueError(f"{file} has {size:,} of {stated:,} bytes: {_AGAIN}")
        if size > stated:
            raise ValueError(f"{file} has {size - stated:,} bytes behind its weights; download it again")


def weight_files(folder: Path) -> list[Path]:
    """The files that the index lists, or the single one."""
    index = folder / INDEX
    if not index.is_file():
        single = folder / SINGLE
        return [single] if single.exists() else []
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{index} is not the index of a model's weights: {_AGAIN}") from None
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise ValueError(f"{index} lists {name!r}, which is not a file of this folder")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder / missing[0]} is missing ({len(missing)} of {len(names)} files are): {_AGAIN}")
    return [folder / name for name in names]


def _stated_size(file: Path, size: int) -> int:
    """Bytes that a file has to have: 8 of a length, a JSON header of that length, and the tensors that it lists.

    https://huggingface.co/docs/safetensors/index#format
    """
    with file.open("rb") as opened:
        start = opened.read(8)
        if _LFS.startswith(start):
            raise ValueError(f"{file} is a pointer of git-lfs, not the weights; run `git lfs pull` in its folder")
        if len(start) < 8:
            raise ValueError(f"{file} has {size} bytes: {_AGAIN}")
        (length,) = struct.unpack("<Q", start)
        if length > 100_000_000:  # the format's own limit
            raise ValueError(f"{file} is not a safetensors file; download it again")
        if size < 8 + length:
            raise ValueError(f"{file} ends inside its header: {_AGAIN}")
        try:
            tensors: dict[str, Any] = json.loads(opened.read(length))
            ends = [entry["data_offsets"][1] for name, entry in tensors.items() if name != "__metadata__"]
            if not all(isinstance(end, int) and end < 2**63 for end in ends):
                raise ValueError("an offset that no file has")
            return 8 + length + max(ends, default=0)
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError, IndexError):
            raise ValueError(f"{file} is not a safetensors file; download it again") from None
