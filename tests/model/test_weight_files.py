"""Incomplete weights are named by their file, before any of them is read."""

from __future__ import annotations

import json
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from avrt.model.student import Student, StudentConfig
from avrt.model.weight_files import check_weight_files

SECOND = "model-00002-of-00002.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Weights in two files with an index."""
    names = {}
    for number, weights in enumerate([{"a": torch.ones(3, 4)}, {"b": torch.ones(5), "c": torch.zeros(0)}], start=1):
        name = f"model-{number:05}-of-00002.safetensors"
        save_file(weights, tmp_path / name, {"format": "pt"})
        names |= dict.fromkeys(weights, name)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return tmp_path


def test_complete_files_pass(folder: Path, any_student_folder: Path) -> None:
    check_weight_files(folder)
    check_weight_files(any_student_folder)


def cut(size: int) -> Callable[[Path], None]:
    return lambda file: file.write_bytes(file.read_bytes()[:size])  # type: ignore[return-value]


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (cut(0), "is empty: its download was interrupted"),
    "within the length": (cut(5), "has 5 bytes: its download"),
    "within the header": (cut(50), "ends inside its header: its download"),
    "one byte short": (cut(-1), r"has [0-9,]+ of [0-9,]+ bytes: its download"),
    "missing": (Path.unlink, r"is missing \(1 of 2 files are\): its download"),
    "longer": (lambda file: file.write_bytes(file.read_bytes() + b"x"), "has 1 bytes behind its weights"),
    "pointer": (
        lambda file: file.write_text("version https://git-lfs.github.com/spec/v1\noid x\n"),
        r"is a pointer of git-lfs.*git lfs pull",
    ),
    "html": (lambda file: file.write_text("<!DOCTYPE html><title>404</title>"), "is not a safetensors file"),
    "deep": (lambda file: file.write_bytes(struct.pack("<Q", 200_000) + b"[" * 200_000), "is not a safetensors file"),
    "offsets": (
        lambda file: file.write_bytes(struct.pack("<Q", 31) + b'{"a": {"data_offsets": [0,"x"]}}'),
        "is not a safetensors file",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_the_damaged_file_is_named(folder: Path, name: str) -> None:
    damage, says = DAMAGES[name]
    damage(folder / SECOND)
    with pytest.raises(ValueError, match=rf"^{re.escape(str(folder / SECOND))} {says}") as caught:
        check_weight_files(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("index", ['{"weight_map": ', "[]", '{"weight_map": 3}', "[" * 100_000])
def test_a_damaged_index(folder: Path, index: str) -> None:
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ValueError, match=r"index\.json is not the index"):
        check_weight_files(folder)


def test_an_index_that_leads_outside(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../secret.safetensors"}}')
    with pytest.raises(ValueError, match="not a file of this folder"):
        check_weight_files(folder)


def test_a_student_without_one_of_its_files(published_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(published_folder, tmp_path / "student")
    file = sorted(copy.glob("*.safetensors"))[-1]
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ValueError, match=rf"^student\.path: [^\n]*{re.escape(file.name)} has [0-9,]+ of [0-9,]+ bytes"):
        Student.load(StudentConfig(path=str(copy), dtype="float32"))
