"""A checkpoint that has changed on disk is refused by name, and the one before it is used."""

from __future__ import annotations

import json
import logging
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from avrt.files import checksums as checksums_module
from avrt.files.checksums import BLOCK_BYTES, checksums
from avrt.model.checkpoints import (
    MARKER,
    check_complete,
    finish_folder,
    load_without_code,
    newest,
    resolve,
    save_tensors,
    start_folder,
    what_is_damaged,
)
from lightning_modules.checkpoint_io import SafeCheckpointIO


def plain(path: Path, step: int = 1) -> Path:
    weights = torch.arange(3000, dtype=torch.float32)
    SafeCheckpointIO().save_checkpoint({"global_step": step, "state_dict": {"w": weights}}, path)
    return path


def folder(path: Path, step: int = 1) -> Path:
    partial = start_folder(path)
    (partial / "checkpoint").mkdir()
    (partial / "latest").write_text("checkpoint")
    for number in range(2):
        file = partial / "checkpoint" / f"zero_pp_rank_{number}_mp_rank_00_optim_states.pt"
        save_tensors({"state": torch.arange(500.0)}, file, file)
    file = partial / "checkpoint" / "mp_rank_00_model_states.pt"
    save_tensors({"global_step": step, "module": {"w": torch.ones(500)}}, file, file)
    finish_folder(path)
    return path


def flip(file: Path, bit: int) -> None:
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


def all_files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


@pytest.mark.parametrize("write", [plain, folder])
def test_every_flipped_bit_is_refused_by_name(write: Any, tmp_path: Path) -> None:
    """Random bits of every file, and of its last bytes; in a plain file these hold the checksum."""
    original, copy = write(tmp_path / "original.ckpt"), tmp_path / "step=0000001.ckpt"
    dice, tried = random.Random(0), 0
    for file in all_files(original):
        bits = file.stat().st_size * 8
        last = min(bits, 110 * 8)
        chosen = {dice.randrange(bits) for _ in range(40)} | {bits - 1 - dice.randrange(last) for _ in range(40)}
        for bit in sorted(chosen):
            (shutil.copytree if original.is_dir() else shutil.copy)(original, copy)
            flipped = copy / file.relative_to(original) if original.is_dir() else copy
            flip(flipped, bit)
            reason = what_is_damaged(copy)
            assert reason, f"bit {bit} of {bits} of {file.name}"
            if original.is_dir() and file.name != MARKER:
                assert file.name in reason
            shutil.rmtree(copy) if copy.is_dir() else copy.unlink()
            tried += 1
    check_complete(original)
    assert tried >= 60 * len(all_files(original))
    flip(all_files(original)[-1], 9)
    with pytest.raises(ValueError, match=r"original\.ckpt cannot be loaded"):
        check_complete(original)


@pytest.mark.parametrize("write", [plain, folder])
def test_a_damaged_one_is_passed_over_in_one_line(write: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = write(tmp_path / "checkpoints" / "step=0000005.ckpt", 5)
    damaged = write(tmp_path / "checkpoints" / "step=0000008.ckpt", 8)
    assert resolve(tmp_path) == damaged
    file = max(all_files(damaged), key=lambda file: file.stat().st_size)
    flip(file, file.stat().st_size * 4)
    assert newest(damaged.parent).path == damaged, "without a look at the content"
    found = newest(damaged.parent, check_content=True)
    assert found.path == good
    assert [path for path, _ in found.passed_over] == [damaged]
    with caplog.at_level(logging.WARNING):
        assert resolve(tmp_path) == good
    (record,) = caplog.records
    assert "step=0000008.ckpt" in record.getMessage()
    assert "\n" not in record.getMessage()
    with pytest.raises(ValueError, match=r"step=0000008\.ckpt cannot be loaded"):
        resolve(damaged)


def test_it_is_read_once_from_choice_to_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, counted = plain(tmp_path / "step=0000001.ckpt"), []
    real = checksums_module._block_digest
    monkeypatch.setattr(checksums_module, "_block_digest", lambda *a: counted.append(a) or real(*a))
    assert newest(tmp_path, check_content=True).path == path
    SafeCheckpointIO().load_checkpoint(path)
    assert len(counted) == 1
    flip(path, 4000)
    with pytest.raises(ValueError, match="damaged"):
        SafeCheckpointIO().load_checkpoint(path)


def test_one_of_an_earlier_version_loads_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    old = tmp_path / "old.ckpt"
    torch.save({"global_step": 3}, old)
    older = folder(tmp_path / "older.ckpt")
    marker = json.loads((older / MARKER).read_text())
    del marker["checksums"]
    (older / MARKER).write_text(json.dumps(marker | {"format": 1}))
    for path in (old, older):
        caplog.clear()
        check_complete(path)
        assert "has no checksum" in caplog.text


def test_other_readers_of_torch_files_ignore_the_checksum(tmp_path: Path) -> None:
    path = plain(tmp_path / "a.ckpt")
    for mapped in (False, True):
        assert torch.equal(torch.load(path, weights_only=True, mmap=mapped)["state_dict"]["w"], torch.arange(3000.0))
        assert load_without_code(path, mmap=mapped)["global_step"] == 1


def test_checksums_cover_all_blocks(tmp_path: Path) -> None:
    file = tmp_path / "file"
    with open(file, "wb") as opened:
        opened.truncate(2 * BLOCK_BYTES + 5)
    seen = {checksums([file])[0]}
    for place in (0, BLOCK_BYTES - 1, BLOCK_BYTES, 2 * BLOCK_BYTES + 4):
        with open(file, "r+b") as opened:
            opened.seek(place)
            opened.write(b"\1")
        seen.add(checksums([file])[0])
    assert len(seen) == 5
    assert checksums([file], [BLOCK_BYTES]) != checksums([file], [BLOCK_BYTES + 1])
