"""Checkpoints are atomic, also after kills and full disks, and never run code."""

from __future__ import annotations

import json
import os
import pickle
import random
import signal
import sys
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from avrt.model.checkpoints import (
    MARKER,
    check_complete,
    check_no_instantiator,
    complete_checkpoints,
    finish_folder,
    load_without_code,
    remove,
    resolve,
    start_folder,
    what_is_missing,
)
from lightning_modules.checkpoint_io import SafeCheckpointIO


def write_forever(kind: str, folder: Path) -> None:
    """Checkpoints of steps 1, 2, ..., each filled with its step's number; old names are replaced."""
    step = 0
    while True:
        step += 1
        content = {"step": step, "weights": torch.full((200_000,), float(step))}
        path = folder / f"step={step % 3:07d}.ckpt"
        if kind == "file":
            SafeCheckpointIO().save_checkpoint(content, path)
        else:
            partial = start_folder(path)
            for part in range(3):
                torch.save(content, partial / f"part{part}.pt")
            finish_folder(path)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_killed_while_saving(kind: str, tmp_path: Path) -> None:
    """kill -9 at random moments: the last complete checkpoint always loads, and all its parts are of one step."""
    dice = random.Random(0)
    partials = 0
    for _ in range(25):
        child = os.fork()
        if child == 0:
            write_forever(kind, tmp_path)
        while not complete_checkpoints(tmp_path):
            time.sleep(0.01)
        time.sleep(dice.uniform(0.0, 0.1))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        partials += any("partial" in p.name for p in tmp_path.iterdir())
        found = complete_checkpoints(tmp_path)
        assert found
        for checkpoint in found:
            files = [checkpoint] if kind == "file" else sorted(checkpoint.glob("*.pt"))
            assert len(files) == (1 if kind == "file" else 3)
            contents = [load_without_code(file) for file in files]
            assert len({content["step"] for content in contents}) == 1
            for content in contents:
                assert torch.equal(content["weights"], torch.full((200_000,), float(content["step"])))
    assert partials  # some of the kills came in the middle of a save


@pytest.mark.parametrize("step", range(12))
def test_killed_at_any_step_of_the_renames(step: int, tmp_path: Path) -> None:
    """One name that is replaced again and again, like `last.ckpt`: a whole checkpoint of that name always exists."""
    path = folder_checkpoint(tmp_path / "last.ckpt", {"step": 1})
    child = os.fork()
    if child == 0:
        calls = 0

        def watch(frame: Any, event: str, argument: Any) -> None:
            nonlocal calls
            if event in ("c_call", "c_return") and argument.__name__ in (
                "replace",
                "rename",
                "unlink",
                "rmdir",
                "fsync",
            ):
                calls += 1
                if calls > step:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.setprofile(watch)
        folder_checkpoint(path, {"step": 2})
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status == signal.SIGKILL
    check_complete(path)
    assert load_without_code(path / "weights.pt")["step"] in (1, 2)


def folder_checkpoint(path: Path, content: Any = None) -> Path:
    partial = start_folder(path)
    torch.save(content or {"a": torch.arange(3)}, partial / "weights.pt")
    (partial / "latest").write_text("checkpoint")
    finish_folder(path)
    return path


def test_a_folder_that_is_not_finished_is_not_chosen(tmp_path: Path) -> None:
    done = folder_checkpoint(tmp_path / "step=1.ckpt")
    partial = start_folder(tmp_path / "step=2.ckpt")
    torch.save({}, partial / "weights.pt")
    assert complete_checkpoints(tmp_path) == [done]
    assert resolve(tmp_path) == done
    finish_folder(tmp_path / "step=2.ckpt")
    assert complete_checkpoints(tmp_path) == [done, tmp_path / "step=2.ckpt"]
    assert not partial.exists()


@pytest.mark.parametrize(
    ("damage", "missing"),
    [
        (lambda c: (c / MARKER).unlink(), "no complete.json"),
        (lambda c: (c / "weights.pt").unlink(), "weights.pt is missing"),
        (lambda c: (c / "weights.pt").write_bytes(b"short"), "weights.pt has 5 bytes, not"),
        (lambda c: (c / MARKER).write_text("{"), "complete.json is damaged"),
    ],
    ids=["marker", "file", "size", "damaged marker"],
)
def test_a_damaged_folder_is_refused_by_name(tmp_path: Path, damage: Any, missing: str) -> None:
    path = folder_checkpoint(tmp_path / "step=1.ckpt")
    damage(path)
    assert complete_checkpoints(tmp_path) == []
    with pytest.raises(ValueError, match=rf"step=1\.ckpt cannot be loaded: .*{missing}"):
        check_complete(path)
    with pytest.raises(ValueError, match="holds no complete checkpoint"):
        resolve(tmp_path)


def test_the_marker_lists_all_files(tmp_path: Path) -> None:
    path = folder_checkpoint(tmp_path / "step=1.ckpt")
    files = json.loads((path / MARKER).read_text())["files"]
    assert files == {"latest": 10, "weights.pt": (path / "weights.pt").stat().st_size}
    remove(path)
    assert not path.exists()


def test_the_best_checkpoint_is_not_the_last(tmp_path: Path) -> None:
    for number, name in enumerate(("step=1.ckpt", "best.ckpt")):
        folder_checkpoint(tmp_path / "checkpoints" / name)
        marker = tmp_path / "checkpoints" / name
        os.utime(marker, (number + 1, number + 1))
    assert resolve(tmp_path).name == "step=1.ckpt"
    assert resolve(tmp_path / "checkpoints" / "best.ckpt").name == "best.ckpt"


def test_no_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A save that fails halfway leaves the old file and no other."""
    path = tmp_path / "last.ckpt"
    io = SafeCheckpointIO()
    io.save_checkpoint({"step": 1}, path)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: .*last\.ckpt"):
        io.save_checkpoint({"step": 2}, path)
    assert load_without_code(path) == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("how", ["torch.save", "pickle", "inside DeepSpeed's records"])
def test_code_is_refused_and_does_not_run(tmp_path: Path, how: str) -> None:
    marker, path = tmp_path / "ran", tmp_path / "evil.ckpt"
    content: Any = {"state_dict": {}, "callbacks": {"x": Payload(marker)}}
    if how == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        if "DeepSpeed" in how:
            from deepspeed.runtime.fp16.loss_scaler import LossScaler

            scaler = LossScaler(1.0)
            scaler.cur_scale = Payload(marker)
            content = {"loss_scaler": scaler}
        torch.save(content, path)
    # A bare pickle is not a checkpoint file.
    refusal = r"cannot be loaded: .* not a file of torch\.save" if how == "pickle" else "is refused: it holds more than"
    with pytest.raises(ValueError, match=rf"evil\.ckpt {refusal}"):
        SafeCheckpointIO().load_checkpoint(path)
    assert not marker.exists()
    if how == "torch.save":
        torch.load(path, weights_only=False)  # the payload is live
        assert marker.exists()


def test_files_of_deepspeed_are_read(tmp_path: Path) -> None:
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    content = {
        "loss_scaler": LossScaler(2.0),
        "zero_stage": ZeroStageEnum.gradients,
        "mappings": [OrderedDict(a=fragment_address(3, 4))],
        "shapes": [OrderedDict(a=torch.Size([1, 2]))],
    }
    torch.save(content, tmp_path / "x.pt")
    read = load_without_code(tmp_path / "x.pt")
    assert read["loss_scaler"].cur_scale == 2.0
    assert read["mappings"][0]["a"].numel == 3


def test_an_instantiator_is_refused(tmp_path: Path) -> None:
    content = {"hyper_parameters": {"_instantiator": "lightning.pytorch.cli.instantiate_module", "x": 1}}
    with pytest.raises(ValueError, match="names a function that builds the module"):
        check_no_instantiator(content, tmp_path / "a.ckpt")
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"a\.ckpt is refused"):
        SafeCheckpointIO().load_checkpoint(tmp_path / "a.ckpt")


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    torch.save({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"a\.ckpt is (damaged|refused)"):
        load_without_code(path)
    path.write_bytes(b"")
    assert what_is_missing(path) == "it is empty"


@pytest.mark.parametrize("content", [b"seed_everything: 0\ntrainer:\n", b"", b"\x80", bytes(range(256))], ids=repr)
def test_a_file_that_is_not_a_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.ckpt is (damaged|refused)"):
        load_without_code(tmp_path / "a.ckpt")


def test_search_while_a_run_prunes(tmp_path: Path) -> None:
    """Another process may remove a checkpoint at any moment."""
    removed = threading.Event()

    def prune() -> None:
        for number in range(300):
            path = tmp_path / f"step={number}.ckpt"
            start_folder(path).joinpath("weights").write_bytes(b"x")
            finish_folder(path)
            remove(path)
        removed.set()

    thread = threading.Thread(target=prune)
    thread.start()
    while not removed.is_set():
        assert all(path.suffix == ".ckpt" for path in complete_checkpoints(tmp_path))
    thread.join()
    assert complete_checkpoints(tmp_path) == []
