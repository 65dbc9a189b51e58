"""The exported student: the trained weights in a folder that plain transformers loads, or nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from avrt.model.lora import LoRAConfig
from avrt.model.student import Student
from avrt.model.student_folder import write_student_folder
from lightning_modules.callbacks.export import ExportStudent
from tests.lightning_modules.callbacks.tiny_runs import sft, trainer
from tests.tiny_student import load_plain, student_config
from tests.tiny_student import save_student as save_untrained


class Interrupt(Callback):
    """Ctrl-C in the first step."""

    def on_train_batch_end(self, *args: object) -> None:
        raise KeyboardInterrupt


@pytest.fixture
def untrained(tmp_path: Path) -> Path:
    return save_untrained(tmp_path / "untrained")


def test_the_folder_holds_what_was_learned(any_student_folder: Path, shards: tuple[Path, Path], tmp_path: Path) -> None:
    module, data = sft(any_student_folder, shards)
    trainer(tmp_path / "run", [ExportStudent()]).fit(module, datamodule=data)
    folder = tmp_path / "run" / "student"
    family = module.student.family
    plain = family.thinker_class.from_pretrained(folder, dtype=torch.float32).state_dict()
    learned = module.student.thinker.state_dict()
    assert plain.keys() == learned.keys()
    assert all(torch.equal(plain[name], learned[name]) for name in plain)
    before = Student.load(student_config(any_student_folder)).thinker.state_dict()
    assert not torch.equal(plain["lm_head.weight"], before["lm_head.weight"])
    assert family.processor_class.from_pretrained(folder).tokenizer.get_vocab()
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith("student")] == ["student"]


def test_adapters_are_folded_in(layout_folder: Path, shards: tuple[Path, Path], tmp_path: Path) -> None:
    module, data = sft(layout_folder, shards, lora=LoRAConfig(rank=4, alpha=8))
    trainer(tmp_path / "run", [ExportStudent()]).fit(module, datamodule=data)
    thinker_class = module.student.family.thinker_class
    names = thinker_class.from_pretrained(layout_folder).state_dict().keys()
    plain, info = thinker_class.from_pretrained(
        tmp_path / "run" / "student", dtype=torch.float32, output_loading_info=True
    )
    assert (info["missing_keys"], info["unexpected_keys"]) == (set(), set())
    assert plain.state_dict().keys() == names
    learned = module.student.thinker.state_dict()
    assert all(torch.equal(weight, learned[name]) for name, weight in plain.state_dict().items())
    before = Student.load(student_config(layout_folder)).thinker.state_dict()
    name = "model.language_model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(learned[name], before[name])


def test_an_interrupted_run_exports_nothing(untrained: Path, shards: tuple[Path, Path], tmp_path: Path) -> None:
    module, data = sft(untrained, shards)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        trainer(tmp_path / "run", [ExportStudent(str(tmp_path / "exported")), Interrupt()]).fit(module, datamodule=data)
    assert not (tmp_path / "exported").exists()


def test_without_a_logger_the_runs_own_folder_is_taken(
    untrained: Path, shards: tuple[Path, Path], tmp_path: Path
) -> None:
    module, data = sft(untrained, shards)
    trainer(tmp_path / "run", [ExportStudent()], logger=False).fit(module, datamodule=data)
    assert (tmp_path / "run" / "student" / "config.json").is_file()


def test_a_trial_exports_nothing(untrained: Path, shards: tuple[Path, Path], tmp_path: Path) -> None:
    module, data = sft(untrained, shards)
    trainer(tmp_path / "run", [ExportStudent()], fast_dev_run=2).fit(module, datamodule=data)
    assert not list(tmp_path.rglob("student*"))


def test_a_folder_that_cannot_be_replaced_is_refused_before_training(
    untrained: Path, shards: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "run" / "student").mkdir(parents=True)
    (tmp_path / "run" / "student" / "config.json").write_text("{}")
    (tmp_path / "run" / "student" / "thesis.tex").touch()
    module, data = sft(untrained, shards)
    run = trainer(tmp_path / "run", [ExportStudent()])
    with pytest.raises(ValueError, match="was not exported by this version"):
        run.fit(module, datamodule=data)
    assert run.global_step == 0
    assert (tmp_path / "run" / "student" / "thesis.tex").exists()


def test_the_student_of_the_run_is_never_replaced(shards: tuple[Path, Path], tmp_path: Path) -> None:
    """Not even one that an export wrote, nor a folder that holds it."""
    exported = tmp_path / "models" / "student"
    write_student_folder(exported, Student.load(student_config(save_untrained(tmp_path / "untrained"))).save)
    before = sorted(path.name for path in exported.iterdir())
    for target in (exported, exported.parent, tmp_path / "models" / ".." / "models" / "student"):
        module, data = sft(exported, shards)
        run = trainer(tmp_path / "run", [ExportStudent(str(target))])
        with pytest.raises(ValueError, match=r"student\.path .*never replaces"):
            run.fit(module, datamodule=data)
        assert run.global_step == 0
    assert sorted(path.name for path in exported.iterdir()) == before


def test_a_second_run_replaces_the_first_ones_export(
    untrained: Path, shards: tuple[Path, Path], tmp_path: Path
) -> None:
    for _ in range(2):
        module, data = sft(untrained, shards)
        trainer(tmp_path / "run", [ExportStudent()]).fit(module, datamodule=data)
    found = load_plain(tmp_path / "run" / "student", torch.float32).state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in module.student.thinker.state_dict().items())


def test_weights_that_are_not_finite_are_not_exported(
    untrained: Path, shards: tuple[Path, Path], tmp_path: Path
) -> None:
    """The older export stays."""
    module, data = sft(untrained, shards)
    trainer(tmp_path / "run", [ExportStudent()]).fit(module, datamodule=data)
    kept = {file.name: file.read_bytes() for file in (tmp_path / "run" / "student").iterdir()}

    class Break(Callback):
        def on_train_end(self, trainer: object, pl_module: Any) -> None:
            pl_module.student.thinker.lm_head.weight.data[0, 0] = float("nan")

    module, data = sft(untrained, shards)
    with pytest.raises(ValueError, match=r"lm_head\.weight is NaN"):
        trainer(tmp_path / "run", [ExportStudent(), Break()]).fit(module, datamodule=data)
    assert {file.name: file.read_bytes() for file in (tmp_path / "run" / "student").iterdir()} == kept
    assert not list((tmp_path / "run").glob("*.partial"))
