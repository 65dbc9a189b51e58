"""`export` over two stages: a run that starts from an exported student, whatever layout the first one had."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
import yaml

from avrt.model.export import export
from tests.lightning_modules.callbacks.tiny_runs import sft, trainer
from tests.tiny_student import load_plain, student_config


def trained_and_exported(
    student: Path, shards: tuple[Path, Path], folder: Path
) -> tuple[Path, dict[str, torch.Tensor]]:
    """The folder that `export` writes of a short run, and the weights that the run had in memory."""
    module, data = sft(student, shards)
    run = trainer(folder, [])
    run.fit(module, datamodule=data)
    run.save_checkpoint(folder / "last.ckpt")
    settings = {"student": dataclasses.asdict(student_config(student))}
    model = {"class_path": "lightning_modules.sft.SFTModule", "init_args": settings}
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": model}))
    export(folder / "last.ckpt", folder / "exported")
    return folder / "exported", module.student.thinker.state_dict()


def test_two_stages(layout_folder: Path, shards: tuple[Path, Path], tmp_path: Path) -> None:
    first, _ = trained_and_exported(layout_folder, shards, tmp_path / "first")
    second, trained = trained_and_exported(first, shards, tmp_path / "second")
    found = load_plain(second, torch.float32).state_dict()
    assert found.keys() == trained.keys()
    assert all(torch.equal(found[name], weight) for name, weight in trained.items())
    assert {file.name for file in first.iterdir()} == {file.name for file in second.iterdir()}
    card = (second / "README.md").read_text()
    assert "base_model" not in card.split("---")[1], "a folder of this machine is not a model on the hub"
