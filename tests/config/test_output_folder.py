"""One folder for all that a run writes, and the checkpoint in it that a run continues from."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from avrt.cli import TRAINING, main
from tests.config.test_configs import BIG, COMMANDS, CONFIGS, LIGHTNING, OVERLAYS, name, read

SAVE_DIR = "--trainer.logger.init_args.save_dir"


def paths_in(value: Any, key: str = "") -> list[tuple[str, str]]:
    """Every text in a config that names a place under ``runs/``, with its key."""
    if isinstance(value, dict):
        return [found for k, v in value.items() for found in paths_in(v, f"{key}.{k}" if key else k)]
    if isinstance(value, list):
        return [found for v in value for found in paths_in(v, key)]
    return [(key, value)] if isinstance(value, str) and value.startswith("runs") else []


@pytest.mark.parametrize("path", LIGHTNING, ids=name)
def test_a_preset_names_its_folder_once(path: Path) -> None:
    assert paths_in(read(path)) == [("trainer.logger.init_args.save_dir", f"runs/{path.stem}")]
    assert "dirpath" not in path.read_text("utf-8")


@pytest.mark.parametrize("path", OVERLAYS, ids=name)
def test_an_overlay_names_no_folder(path: Path) -> None:
    assert paths_in(read(path)) == []
    assert not {"default_root_dir", "logger"} & read(path).get("trainer", {}).keys()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    from tests.lightning_modules.callbacks.tiny_runs import write_shards

    return write_shards(tmp_path_factory.mktemp("shards"), train=8, val=2)


class Fit:
    """``fit`` of a preset for GPUs on a CPU and a tiny student; only sizes and places are changed."""

    def __init__(self, preset: str, student: Path, shards: tuple[Path, Path], folder: Path) -> None:
        options: dict[str, Any] = {
            "trainer.enable_progress_bar": "false",
            "trainer.val_check_interval": 2,
            "model.init_args.student.path": student,
            "model.init_args.student.min_pixels": 3136,
            "model.init_args.student.max_pixels": 3136,
            "model.init_args.val_max_completion_length": 4,
            "model.init_args.optimizer.total_steps": 10,
            "data.init_args.train": shards[0],
            "data.init_args.val": shards[1],
            "data.init_args.num_workers": 0,
            "trainer.max_epochs": 10,
        }
        if preset.startswith("grpo"):
            options["model.init_args.sampling.max_completion_length"] = 4
        self.folder = folder
        self.files = [CONFIGS / f"{preset}.yaml", CONFIGS / "overlays" / "laptop.yaml"]
        self.options = [f"--{key}={value}" for key, value in options.items()]

    def __call__(self, *words: str, steps: int = 1, overlay: dict[str, Any] | None = None, command: str = "fit") -> int:
        files = list(self.files)
        if overlay is not None:
            files.append(self.folder / "overlay.yaml")
            files[-1].write_text(yaml.safe_dump(overlay))
        configs = [f"--config={path}" for path in files]
        return main([command, *configs, *self.options, f"--trainer.max_steps={steps}", *words])


@pytest.fixture
def sft(student_folder: Path, shards: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fit:
    monkeypatch.chdir(tmp_path)
    return Fit("sft_7b", student_folder, shards, tmp_path)


@pytest.fixture
def grpo(student_folder: Path, shards: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fit:
    monkeypatch.chdir(tmp_path)
    return Fit("grpo_7b", student_folder, shards, tmp_path)


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def save_every_step(**more: Any) -> dict[str, Any]:
    """A second file whose list replaces the preset's."""
    saver = {"class_path": "lightning_modules.callbacks.RunCheckpoint", "init_args": {"every_n_steps": 1, **more}}
    return {"trainer": {"callbacks": [saver], "limit_val_batches": 0}}


def test_two_folders_of_one_preset_share_nothing(grpo: Fit, tmp_path: Path) -> None:
    export = {"trainer": {"callbacks+": [{"class_path": "lightning_modules.callbacks.export.ExportStudent"}]}}
    before = names(tmp_path)
    assert grpo(f"{SAVE_DIR}=one", steps=2, overlay=export) == 0
    first = digests(tmp_path / "one")
    assert {"checkpoints/best.ckpt", "checkpoints/step=0000002.ckpt", "config.yaml", "student/config.json"} <= set(
        first
    )
    assert any(name.startswith("events.out") for name in first)
    # The second run finds nothing of the first to resume, by the short name of the option.
    assert grpo("--trainer.logger.save_dir=two", "--ckpt_path=last", steps=1, overlay=export) == 0
    assert digests(tmp_path / "one") == first
    second = set(digests(tmp_path / "two"))
    assert {"checkpoints/best.ckpt", "checkpoints/step=0000001.ckpt", "config.yaml", "student/config.json"} <= second
    assert not any("step=0000002" in name for name in second)
    assert grpo("--trainer.logger.save_dir=two", command="predict") == 0
    assert "predictions.jsonl" in names(tmp_path / "two")
    assert names(tmp_path) == before | {"one", "two", "overlay.yaml"}
    assert digests(tmp_path / "one") == first


def test_last_needs_no_callback_to_find_the_checkpoint(
    sft: Fit, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert sft(steps=2) == 0
    none = {"trainer": {"callbacks": [{"class_path": "lightning_modules.callbacks.Throughput"}]}}
    with caplog.at_level(logging.WARNING):
        assert sft("--ckpt_path=last", steps=3, overlay=none) == 0
    (line,) = [record.getMessage() for record in caplog.records if "RunCheckpoint" in record.getMessage()]
    assert "callbacks+" in line
    caplog.clear()
    from tests.lightning_modules.callbacks.tiny_runs import events, scalars

    steps = [step for step, _ in scalars(events(tmp_path / "runs" / "sft_7b"), "learning_rate")]
    assert steps == sorted(set(steps)), "no step was taken twice"


def test_last_passes_over_a_truncated_one_and_ignores_the_clock(
    sft: Fit, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    assert sft(steps=3, overlay=save_every_step(keep=-1)) == 0
    folder = tmp_path / "runs" / "sft_7b" / "checkpoints"
    newest = folder / "step=0000003.ckpt"
    newest.write_bytes(newest.read_bytes()[:-50])
    os.utime(folder / "step=0000001.ckpt")
    with caplog.at_level(logging.INFO):
        assert sft("--ckpt_path=last", steps=3, overlay=save_every_step(keep=-1)) == 0
    messages = [record.getMessage() for record in caplog.records]
    (line,) = [message for message in messages if "passed over" in message]
    assert "step=0000003.ckpt" in line
    assert "step=0000002.ckpt" in line
    # Nothing that can be loaded: never from the start beside checkpoints.
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:-50])
    capfd.readouterr()
    assert sft("--ckpt_path=last", steps=3, overlay=save_every_step(keep=-1)) == 1
    assert "step=0000003.ckpt" in capfd.readouterr().err.splitlines()[-1]


def test_the_newest_stay_over_any_number_of_resumes(sft: Fit, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "sft_7b" / "checkpoints"
    listed = []
    overlay = save_every_step(keep=2)
    best = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint"}
    best["init_args"] = {"filename": "best", "monitor": "val/accuracy", "mode": "max", "enable_version_counter": False}
    overlay["trainer"] = {"callbacks": [best, *overlay["trainer"]["callbacks"]]}
    for steps in (1, 2, 4, 5, 7):
        assert sft("--ckpt_path=last", steps=steps, overlay=overlay) == 0
        listed.append(sorted(int(path.stem[5:]) for path in folder.glob("step=*.ckpt")))
        if steps == 2:
            (folder / "step=0000001.ckpt.partial").write_bytes(b"of a save that was killed")
    assert listed == [[1], [1, 2], [3, 4], [4, 5], [6, 7]]
    assert names(folder) == {"best.ckpt", "step=0000006.ckpt", "step=0000007.ckpt"}


def test_the_one_resumed_from_stays_until_others_have_replaced_it(sft: Fit, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "sft_7b" / "checkpoints"
    assert sft(steps=2, overlay=save_every_step(keep=2)) == 0
    assert sft("--ckpt_path=last", steps=3, overlay=save_every_step(keep=2)) == 0
    assert names(folder) == {"step=0000002.ckpt", "step=0000003.ckpt"}
    # A truncated one does not count as one of those kept.
    broken = folder / "step=0000003.ckpt"
    broken.write_bytes(broken.read_bytes()[:-50])
    assert sft("--ckpt_path", str(folder / "step=0000002.ckpt"), steps=4, overlay=save_every_step(keep=3)) == 0
    assert names(folder) == {f"step=000000{step}.ckpt" for step in (2, 3, 4)}


def test_a_new_run_in_a_used_folder_does_not_mix_with_the_old_one(
    sft: Fit, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from avrt.model.checkpoints import resolve

    run = tmp_path / "runs" / "sft_7b"
    assert sft(steps=2) == 0
    with caplog.at_level(logging.WARNING):
        assert sft(steps=1) == 0
    assert [r.getMessage() for r in caplog.records if "checkpoints.1" in r.getMessage()]
    assert "step=0000002.ckpt" in names(run / "checkpoints.1")
    assert "config.yaml" in names(run / "checkpoints.1")
    assert resolve(run) == run / "checkpoints" / "step=0000001.ckpt"


def test_an_old_config_with_a_dirpath(
    sft: Fit, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """It works, and says that the run has two folders; another run is kept out of the second one."""
    place = tmp_path / "shared_checkpoints"
    overlay = save_every_step(dirpath=str(place))
    best = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint"}
    best["init_args"] = {"filename": "best", "monitor": "val/accuracy", "mode": "max", "enable_version_counter": False}
    overlay["trainer"] = {"callbacks": [best, *overlay["trainer"]["callbacks"]]}
    with caplog.at_level(logging.WARNING):
        assert sft(f"{SAVE_DIR}=one", steps=1, overlay=overlay) == 0
    assert names(place) == {"step=0000001.ckpt"}
    assert [r.getMessage() for r in caplog.records if "RunCheckpoint.dirpath" in r.getMessage()]
    assert sft(f"{SAVE_DIR}=one", "--ckpt_path=last", steps=2, overlay=overlay) == 0
    assert not (tmp_path / "one" / "checkpoints.1").exists(), "it is the same run"
    assert "best.ckpt" in names(tmp_path / "one" / "checkpoints")
    before = digests(place)
    for words in ([], ["--ckpt_path=last"]):
        capfd.readouterr()
        assert sft(f"{SAVE_DIR}=two", *words, steps=3, overlay=overlay) == 1
        line = capfd.readouterr().err.splitlines()[-1]
        assert "RunCheckpoint.dirpath" in line
        assert str(place) in line
    assert digests(place) == before


def test_best_is_the_file_of_that_name(sft: Fit, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert sft(steps=1) == 0
    assert sft("--ckpt_path=best", command="validate") == 0
    capfd.readouterr()
    assert sft(f"{SAVE_DIR}=empty", "--ckpt_path=best", command="validate") == 1
    assert "best.ckpt" in capfd.readouterr().err.splitlines()[-1]
    assert sft(f"{SAVE_DIR}=empty", "--ckpt_path=last", command="validate") == 1
    assert "--ckpt_path last" in capfd.readouterr().err.splitlines()[-1]


def test_a_logger_with_a_new_folder_for_every_start(
    sft: Fit, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    logger = ["--trainer.logger.init_args.version=null", f"{SAVE_DIR}=many"]
    assert sft(*logger, steps=1) == 0
    capfd.readouterr()
    assert sft(*logger, "--ckpt_path=last", steps=2) == 1
    line = capfd.readouterr().err.splitlines()[-1]
    assert "version_0" in line
    assert "trainer.logger.version" in line


def test_a_second_fit_on_one_folder_is_refused(sft: Fit, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from avrt.files.folder_lock import FolderLock

    run = tmp_path / "runs" / "sft_7b"
    child_may_end, parent_holds = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        with FolderLock(run, "fit"):
            os.write(parent_holds[1], b"x")
            os.read(child_may_end[0], 1)
        os._exit(0)
    os.read(parent_holds[0], 1)
    try:
        assert sft(steps=1) == 1
    finally:
        os.write(child_may_end[1], b"x")
        os.waitpid(child, 0)
    line = capfd.readouterr().err.splitlines()[-1]
    assert str(run) in line
    assert not (run / "checkpoints").exists()
    assert sft(steps=1) == 0


def test_all_presets_of_training_are_covered() -> None:
    assert {path.stem for path in LIGHTNING if COMMANDS[path] in TRAINING} >= set(BIG)
