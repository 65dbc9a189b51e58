"""The newest checkpoint is the complete one with the highest optimizer step; skipped ones are named."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
import torch

from avrt.files.checksums import add_checksum
from avrt.model.checkpoints import MARKER, finish_folder, newest, resolve, start_folder, step_of, what_is_missing


def plain(path: Path, step: int, age: int = 0) -> Path:
    """A single file as Lightning writes it, modified `age` seconds ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"global_step": step, "state_dict": {"w": torch.zeros(1000)}}, path)
    return aged(path, age)


def folder(path: Path, step: int, age: int = 0) -> Path:
    """A folder as DeepSpeed writes it."""
    partial = start_folder(path)
    (partial / "checkpoint").mkdir()
    torch.save({"global_step": step, "module": {}}, partial / "checkpoint" / "mp_rank_00_model_states.pt")
    finish_folder(path)
    return aged(path, age)


def aged(path: Path, seconds: int) -> Path:
    os.utime(path, (1_700_000_000 - seconds,) * 2)
    return path


def cut(path: Path) -> Path:
    """The remains of an interrupted copy."""
    if path.is_dir():
        (path / MARKER).unlink()
    else:
        path.write_bytes(path.read_bytes()[:-300])
    return path


@pytest.mark.parametrize("write", [plain, folder])
def test_the_highest_step_counts_and_not_the_clock(tmp_path: Path, write: object) -> None:
    assert callable(write)
    write(tmp_path / "step=0000009.ckpt", 9, age=0)
    highest = write(tmp_path / "step=0000010.ckpt", 10, age=5000)
    assert newest(tmp_path).path == highest
    assert resolve(tmp_path) == highest


@pytest.mark.parametrize("write", [plain, folder])
def test_a_step_outside_the_name_is_read_from_the_file(tmp_path: Path, write: object) -> None:
    assert callable(write)
    write(tmp_path / "step=0000004.ckpt", 4)
    write(tmp_path / "best.ckpt", 3)
    assert newest(tmp_path).path == tmp_path / "step=0000004.ckpt"
    write(tmp_path / "last.ckpt", 7, age=5000)
    assert step_of(tmp_path / "last.ckpt") == 7
    assert newest(tmp_path).path == tmp_path / "last.ckpt"


def test_names_of_lightning(tmp_path: Path) -> None:
    plain(tmp_path / "epoch=3-step=9.ckpt", 9)
    plain(tmp_path / "epoch=0-step=12-v1.ckpt", 12, age=9)
    plain(tmp_path / "step=11-loss=0.5.ckpt", 11)
    assert newest(tmp_path).path == tmp_path / "epoch=0-step=12-v1.ckpt"


@pytest.mark.parametrize("write", [plain, folder])
def test_an_incomplete_one_is_skipped_and_named(
    tmp_path: Path, write: object, caplog: pytest.LogCaptureFixture
) -> None:
    assert callable(write)
    write(tmp_path / "checkpoints" / "step=0000005.ckpt", 5)
    cut(write(tmp_path / "checkpoints" / "step=0000008.ckpt", 8))
    cut(write(tmp_path / "checkpoints" / "step=0000002.ckpt", 2))  # older: of no interest
    found = newest(tmp_path / "checkpoints")
    assert found.path == tmp_path / "checkpoints" / "step=0000005.ckpt"
    assert [path.name for path, _ in found.passed_over] == ["step=0000008.ckpt"]
    with caplog.at_level(logging.WARNING):
        assert resolve(tmp_path) == found.path
    (record,) = caplog.records
    assert "step=0000008.ckpt" in record.getMessage()


def test_when_all_are_incomplete(tmp_path: Path) -> None:
    cut(plain(tmp_path / "step=0000008.ckpt", 8))
    assert newest(tmp_path).path is None
    with pytest.raises(ValueError, match=r"holds no complete checkpoint.*step=0000008\.ckpt"):
        resolve(tmp_path)


@pytest.mark.parametrize("size", [1, 100, 2000])
def test_a_truncated_file_is_incomplete(tmp_path: Path, size: int) -> None:
    path = plain(tmp_path / "step=0000001.ckpt", 1)
    assert what_is_missing(path) is None
    path.write_bytes(path.read_bytes()[:size])
    assert "truncated" in str(what_is_missing(path))


def test_zeros_are_incomplete(tmp_path: Path) -> None:
    """Some file systems leave zeros for content that had not reached the disk."""
    path = plain(tmp_path / "step=0000001.ckpt", 1)
    path.write_bytes(bytes(path.stat().st_size))
    assert what_is_missing(path)


def test_a_damaged_file_without_a_step_in_its_name_is_passed_over(tmp_path: Path) -> None:
    """Whatever byte is damaged: the file's own step is not read before its checksum was compared."""
    good = plain(tmp_path / "step=0000001.ckpt", 1)
    best = plain(tmp_path / "best.ckpt", 2)
    add_checksum(best)
    data = best.read_bytes()
    for place in range(0, len(data), 7):
        best.write_bytes(data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :])
        assert newest(tmp_path, check_content=True).path == good
