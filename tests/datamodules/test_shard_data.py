"""The data modules' settings: what is refused, with its key, before the student is loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer

from avrt.data.writer import ShardWriter
from avrt.sample import Sample
from datamodules.grpo import GRPODataModule
from lightning_modules.grpo import GRPOModule
from tests.lightning_modules.training import Constant, grpo_data, grpo_module, write_shards
from tests.tiny_student import make_sample


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("train"), count=4)


class NeverLoaded(GRPOModule):
    def configure_model(self) -> None:
        raise AssertionError("the student was loaded before the shards were looked for")


def run(stage: str, module: GRPOModule, data: GRPODataModule) -> None:
    trainer = Trainer(accelerator="cpu", max_steps=1, logger=False, enable_progress_bar=False)
    getattr(trainer, stage)(module, datamodule=data)


@pytest.mark.parametrize(
    ("stage", "settings", "line"),
    [
        ("fit", {"train": "/nowhere"}, r"data\.train: shards: /nowhere: no such folder"),
        ("fit", {"train_split": "dev"}, r"data\.train: split: no sample of split 'dev'"),
        ("fit", {"val": "/nowhere"}, r"data\.val: shards: /nowhere: no such folder"),
        ("validate", {}, r"data\.val: is null.*`validate`"),
        ("predict", {}, r"data\.val: is null.*`predict`"),
    ],
)
def test_shards_are_looked_for_first(
    student_folder: Path, shards: Path, stage: str, settings: dict[str, Any], line: str
) -> None:
    with pytest.raises(ValueError, match=line):
        run(stage, grpo_module(student_folder, NeverLoaded), grpo_data(shards, **settings))


def test_rewards_are_looked_for_first(student_folder: Path, shards: Path) -> None:
    with pytest.raises(ValueError, match=r"trainer\.callbacks lists no reward"):
        run("fit", grpo_module(student_folder, NeverLoaded), grpo_data(shards))


# ---- training and validation apart ----------------------------------------------------------------------------------


def write(folder: Path, *samples: Sample) -> Path:
    with ShardWriter(folder) as writer:
        for sample in samples:
            writer.write(sample)
    return folder


def sample(number: int, source: str, split: str = "train") -> Sample:
    return replace(make_sample("audio", number, audio_seconds=0.1), id=f"q{number}", source=source, split=split)


class Opened(Exception):
    """The shards were accepted."""


class StopsAtTheStudent(GRPOModule):
    def configure_model(self) -> None:
        raise Opened


def open_data(student_folder: Path, **settings: Any) -> None:
    data = grpo_data(**settings)
    trainer = Trainer(accelerator="cpu", max_steps=1, logger=False, enable_progress_bar=False, callbacks=[Constant()])
    with pytest.raises(Opened):
        trainer.fit(grpo_module(student_folder, StopsAtTheStudent), datamodule=data)


def test_training_on_the_validation_set_is_refused(student_folder: Path, tmp_path: Path) -> None:
    both = write(tmp_path / "both", *(sample(i, f"c{i}") for i in range(4)))
    part = write(tmp_path / "part", sample(9, "c9"), sample(2, "c2"), sample(3, "c3"))
    with pytest.raises(
        ValueError, match=r"4 of the 4 samples of data\.val are also in data\.train.*'q0'.*allow_overlap"
    ):
        open_data(student_folder, shards=both, val=str(both))
    with pytest.raises(ValueError, match=r"2 of the 3 samples of data\.val are also in data\.train.*'q2'"):
        open_data(student_folder, shards=both, val=str(part))


def test_overlap_on_purpose(student_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    both = write(tmp_path / "both", *(sample(i, f"c{i}") for i in range(4)))
    open_data(student_folder, shards=both, val=str(both), allow_overlap=True)
    assert "4 of the 4 samples of data.val are also in data.train" in caplog.text


def test_two_splits_in_one_folder(student_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    both = write(tmp_path / "both", *(sample(i, f"c{i}", ("train", "val")[i % 2]) for i in range(4)))
    open_data(student_folder, shards=both, val=str(both), train_split="train", val_split="val")
    assert "data.val" not in caplog.text


def test_shared_clips_are_said(student_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Other questions about the same clips: one line, whatever the number of them."""
    train = write(tmp_path / "train", *(sample(i, f"c{i}") for i in range(4)))
    val = write(tmp_path / "val", sample(10, "c1"), sample(11, "c1"), sample(12, "c3"), sample(13, "c5"))
    open_data(student_folder, shards=train, val=str(val))
    lines = [record.getMessage() for record in caplog.records if "data.val" in record.getMessage()]
    assert lines == ["2 clips of data.val are also in data.train, for example 'c1'."]


def test_ids_that_each_set_counts_from_0(student_folder: Path, tmp_path: Path) -> None:
    """The same id of another clip is another sample."""
    train = write(tmp_path / "train", *(sample(i, f"train{i}") for i in range(4)))
    val = write(tmp_path / "val", *(sample(i, f"val{i}") for i in range(4)))
    open_data(student_folder, shards=train, val=str(val))
