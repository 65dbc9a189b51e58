"""One folder for everything that a run writes, and the checkpoint in it that a run resumes from."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from avrt.cli import TRAINING, main
from avrt.rewards import RewardCallback
from tests.config.test_configs import BIG, COMMANDS, CONFIGS, LIGHTNING, OVERLAYS, name, read


def paths_in(value: Any, key: str = "") -> list[tuple[str, str]]:
    """Every text in a config that names a place under ``runs/``, with its key."""
    if isinstance(value, dict):
        return [found for k, v in value.items() for found in paths_in(v, f"{key}.{k}" if key else k)]
    if isinstance(value, list):
        return [found for v in value for found in paths_in(v, key)]
    return [(key, value)] if isinstance(value, str) and value.startswith("runs") else []


@pytest.mark.parametrize("path", LIGHTNING, ids=name)
def test_a_preset_names_its_folder_once(path: Path) -> None:
    settings = read(path)
    assert paths_in(settings) == [("output_dir", f"runs/{path.stem}")]
    assert "logger" not in settings["trainer"]
    assert "dirpath" not in path.read_text("utf-8")


@pytest.mark.parametrize("path", OVERLAYS, ids=name)
def test_an_overlay_names_no_folder(path: Path) -> None:
    settings = read(path)
    # A folder that runs share on purpose is not a run's own.
    assert [value for key, value in paths_in(settings) if not key.endswith(".cache")] == []
    assert "output_dir" not in settings
    trainer = settings.get("trainer", {})
    assert "default_root_dir" not in trainer
    for logger in trainer.get("logger", ()):
        assert logger["init_args"]["save_dir"].startswith("${output_dir}")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    from tests.lightning_modules.callbacks.tiny_runs import write_shards

    return write_shards(tmp_path_factory.mktemp("shards"), train=8, val=2)


class Fit:
    """``fit`` of a preset for GPUs on a CPU and a tiny student; only sizes and places are changed."""

    def __init__(self, preset: str, student: Path, shards: tuple[Path, Path], folder: Path) -> None:
        options: dict[str, Any] = {
            "trainer.enable_progress_bar": "false",
            "data.val_every_n_steps": 1,
            "model.student.path": student,
            "model.student.min_pixels": 3136,
            "model.student.max_pixels": 3136,
            "model.val_max_completion_length": 4,
            "model.optimizer.total_steps": 10,
            "data.train": shards[0],
            "data.val": shards[1],
            "data.num_workers": 0,
            "trainer.max_epochs": 10,
        }
        if preset.startswith("grpo"):
            options["model.sampling.max_completion_length"] = 4
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


class MyReward(RewardCallback):
    """A user's reward."""

    name = "mine"

    def score(self, completions: Any) -> list[float]:
        return [float(len(completion.text)) for completion in completions]


def test_two_folders_of_one_preset_share_nothing(grpo: Fit, tmp_path: Path) -> None:
    export = {"trainer": {"callbacks+": [{"class_path": "lightning_modules.callbacks.ExportStudent"}]}}
    before = names(tmp_path)
    assert grpo("--output_dir=one", steps=2, overlay=export) == 0
    first = digests(tmp_path / "one")
    assert {"checkpoints/best.ckpt", "checkpoints/step=0000002.ckpt", "config.yaml", "student/config.json"} <= set(
        first
    )
    assert any(name.startswith("events.out") for name in first)
    # The second run finds nothing of the first to resume.
    assert grpo("--output_dir=two", "--ckpt_path=last", steps=1, overlay=export) == 0
    assert digests(tmp_path / "one") == first
    second = set(digests(tmp_path / "two"))
    assert {"checkpoints/best.ckpt", "checkpoints/step=0000001.ckpt", "config.yaml", "student/config.json"} <= second
    assert not any("step=0000002" in name for name in second)
    assert grpo("--output_dir=two", command="predict") == 0
    assert "predictions.jsonl" in names(tmp_path / "two")
    assert names(tmp_path) == before | {"one", "two", "overlay.yaml"}
    assert digests(tmp_path / "one") == first


def test_a_list_of_rewards_alone_keeps_checkpoints_and_curves(grpo: Fit, tmp_path: Path) -> None:
    from tests.lightning_modules.callbacks.tiny_runs import events, scalars

    rewards = {"trainer": {"callbacks": [{"class_path": f"{__name__}.MyReward"}]}}
    assert grpo("--allow-classes=tests", steps=1, overlay=rewards) == 0
    run = tmp_path / "runs" / "grpo_7b"
    assert {"best.ckpt", "step=0000001.ckpt"} == names(run / "checkpoints")
    tags = events(run).Tags()
    assert {"rewards/mine/mean", "throughput/tokens_per_second", "val/accuracy"} <= set(tags["scalars"])
    assert any("custom_scalars" in tag for tag in tags["tensors"])
    assert grpo("--allow-classes=tests", "--ckpt_path=last", steps=2, overlay=rewards) == 0
    steps = [step for step, _ in scalars(events(run), "learning_rate")]
    assert steps == sorted(set(steps)), "no step was taken twice"


def test_a_listed_callback_takes_the_place_of_its_default(sft: Fit, tmp_path: Path) -> None:
    assert sft("--trainer.enable_checkpointing=false", steps=1) == 0
    assert not (tmp_path / "runs" / "sft_7b" / "checkpoints").exists()
    assert sft(steps=3, overlay=save_every_step(keep=1)) == 0
    # Without validation there is no best checkpoint.
    assert names(tmp_path / "runs" / "sft_7b" / "checkpoints") == {"step=0000003.ckpt"}


def test_another_logger_writes_to_the_output_folder(sft: Fit, tmp_path: Path) -> None:
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"flush_logs_every_n_steps": 1}}
    assert sft("--output_dir=one", steps=1, overlay={"trainer": {"logger": logger}}) == 0
    assert {"metrics.csv", "config.yaml", "checkpoints"} <= names(tmp_path / "one")
    # Checkpoints follow the logger's folder: one elsewhere would be shared by runs with different output folders.
    logger["init_args"] = {"save_dir": "two"}
    assert sft("--output_dir=one", steps=1, overlay={"trainer": {"logger": [logger]}}) == 2
    assert not (tmp_path / "two").exists()
    assert sft("--output_dir=two", steps=1, overlay={"trainer": {"logger": [logger]}}) == 0
    assert {"metrics.csv", "config.yaml", "checkpoints"} <= names(tmp_path / "two")
    assert sft("--output_dir=three", "--trainer.logger=false", steps=1) == 0
    assert {"checkpoints"} <= names(tmp_path / "three")


def test_the_saved_settings_run_in_another_folder(sft: Fit, tmp_path: Path) -> None:
    assert sft(steps=1) == 0
    saved = tmp_path / "runs" / "sft_7b" / "config.yaml"
    before = digests(saved.parent)
    assert main(["fit", f"--config={saved}", "--output_dir=other"]) == 0
    assert digests(saved.parent) == before
    assert {"checkpoints", "config.yaml"} <= names(tmp_path / "other")


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
    (line,) = [message for message in messages if "--ckpt_path last" in message]
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
    """It works with a warning that the run has two folders; another run is kept out of the second one."""
    place = tmp_path / "shared_checkpoints"
    overlay = save_every_step(dirpath=str(place))
    best = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint"}
    best["init_args"] = {"filename": "best", "monitor": "val/accuracy", "mode": "max", "enable_version_counter": False}
    overlay["trainer"] = {"callbacks": [best, *overlay["trainer"]["callbacks"]]}
    with caplog.at_level(logging.WARNING):
        assert sft("--output_dir=one", steps=1, overlay=overlay) == 0
    assert names(place) == {"step=0000001.ckpt"}
    assert [r.getMessage() for r in caplog.records if "RunCheckpoint.dirpath" in r.getMessage()]
    assert sft("--output_dir=one", "--ckpt_path=last", steps=2, overlay=overlay) == 0
    assert not (tmp_path / "one" / "checkpoints.1").exists(), "it is the same run"
    assert "best.ckpt" in names(tmp_path / "one" / "checkpoints")
    before = digests(place)
    for words in ([], ["--ckpt_path=last"]):
        capfd.readouterr()
        assert sft("--output_dir=two", *words, steps=3, overlay=overlay) == 1
        line = capfd.readouterr().err.splitlines()[-1]
        assert "RunCheckpoint.dirpath" in line
        assert str(place) in line
    assert digests(place) == before


def test_best_is_the_file_of_that_name(sft: Fit, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert sft(steps=1) == 0
    assert sft("--ckpt_path=best", command="validate") == 0
    capfd.readouterr()
    assert sft("--output_dir=empty", "--ckpt_path=best", command="validate") == 1
    assert "best.ckpt" in capfd.readouterr().err.splitlines()[-1]
    assert sft("--output_dir=empty", "--ckpt_path=last", command="validate") == 1
    assert "--ckpt_path last" in capfd.readouterr().err.splitlines()[-1]


def test_a_logger_with_a_new_folder_for_every_start(
    sft: Fit, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    logger = ["--trainer.logger.init_args.version=null", "--output_dir=many"]
    assert sft(*logger, steps=1) == 0
    capfd.readouterr()
    assert sft(*logger, "--ckpt_path=last", steps=2) == 1
    line = capfd.readouterr().err.splitlines()[-1]
    assert "version_0" in line
    assert "trainer.logger.version" in line


@pytest.mark.parametrize("entry", [{"_instantiator": "planted_module.build"}, {"_class_path": "planted_module.Thing"}])
def test_a_checkpoint_cannot_say_what_is_built(
    sft: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], entry: dict[str, str]
) -> None:
    """Such entries would make Lightning import and call what they name."""
    marker = tmp_path / "imported"
    (tmp_path / "planted_module.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert sft(steps=1) == 0
    checkpoint = tmp_path / "runs" / "sft_7b" / "checkpoints" / "step=0000001.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    content["hyper_parameters"] = entry
    torch.save(content, checkpoint)
    capfd.readouterr()
    status = sft("--ckpt_path", str(checkpoint), "--allow-classes=planted_module", steps=2)
    assert status == (1 if "_instantiator" in entry else 0)
    assert ("_instantiator" in capfd.readouterr().err) == ("_instantiator" in entry)
    assert not marker.exists()
    settings = yaml.safe_load((tmp_path / "runs" / "sft_7b" / "config.yaml").read_text())
    assert settings["model"]["class_path"] == "lightning_modules.sft.SFTModule"


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
