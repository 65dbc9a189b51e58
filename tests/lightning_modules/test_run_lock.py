"""Which checkpoints belong to a run's folder, without a training."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from avrt.files.folder_lock import FolderInUseError
from lightning_modules.callbacks import RunCheckpoint
from lightning_modules.checkpoint_io import SafeCheckpointIO
from lightning_modules.run_lock import opened


def trainer_in(folder: Path, callbacks: tuple[Any, ...] = ()) -> Any:
    return SimpleNamespace(
        log_dir=str(folder),
        default_root_dir=str(folder),
        fast_dev_run=False,
        is_global_zero=True,
        callbacks=[*callbacks, RunCheckpoint()],
    )


def save(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"global_step": 1}, path)
    return path


@pytest.mark.parametrize("way", ["link/run", "link/../real/run", "real/../real/run"])
def test_a_checkpoint_of_the_run_itself_is_not_set_aside_however_its_path_is_written(tmp_path: Path, way: str) -> None:
    run = tmp_path / "real" / "run"
    checkpoint = save(run / "checkpoints" / "step=0000001.ckpt")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for folder, name in ((run, tmp_path / way), (tmp_path / way, run)):
        with opened(trainer_in(folder), "fit", str(name / "checkpoints" / checkpoint.name)) as found:
            assert found is not None
            assert Path(found).is_file()
        assert checkpoint.is_file()


def test_a_dirpath_in_a_linked_run_folder_is_no_second_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Lightning resolves a callback's `dirpath`, and not the logger's folder."""
    save(tmp_path / "real" / "mine" / "step=0000001.ckpt")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    saver = RunCheckpoint(dirpath=str(tmp_path / "link" / "mine"))
    with caplog.at_level(logging.WARNING), opened(trainer_in(tmp_path / "link", (saver,)), "fit", "last") as found:
        assert found == str(tmp_path / "real" / "mine" / "step=0000001.ckpt")
    assert not [record for record in caplog.records if "dirpath" in record.getMessage()]


def test_last_names_the_checkpoints_that_a_start_without_it_has_set_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Started once by mistake without ``--ckpt_path last`` and stopped at once, a run must not be lost silently."""
    save(tmp_path / "checkpoints" / "step=0000007.ckpt")
    with opened(trainer_in(tmp_path), "fit", None):
        pass
    caplog.clear()
    with caplog.at_level(logging.WARNING), opened(trainer_in(tmp_path), "fit", "last") as found:
        assert found is None
    aside = tmp_path / "checkpoints.1" / "step=0000007.ckpt"
    assert [record for record in caplog.records if str(aside) in record.getMessage()]
    with opened(trainer_in(tmp_path), "fit", str(aside)) as found:
        assert found == str(aside)


@pytest.mark.parametrize("second", ["fit", "validate", "test", "predict"])
@pytest.mark.parametrize("first", ["fit", "test"])
def test_one_command_at_a_time_writes_to_a_run(tmp_path: Path, first: str, second: str) -> None:
    with (
        opened(trainer_in(tmp_path), first, None),
        pytest.raises(FolderInUseError, match=f"`{first}`"),
        opened(trainer_in(tmp_path), second, None),
    ):
        pass
    with opened(trainer_in(tmp_path), second, None):
        pass


def test_last_passes_over_a_damaged_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for step in (1, 2):
        path = tmp_path / "checkpoints" / f"step={step:07d}.ckpt"
        SafeCheckpointIO().save_checkpoint({"global_step": step, "weights": torch.zeros(1000)}, path)
    data = bytearray(path.read_bytes())
    data[2000] ^= 4
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING), opened(trainer_in(tmp_path), "fit", "last") as found:
        assert found == str(path.with_name("step=0000001.ckpt"))
    (record,) = [record for record in caplog.records if "step=0000002.ckpt" in record.getMessage()]
    assert "damaged" in record.getMessage()
