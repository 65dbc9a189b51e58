"""The shipped YAML files: they parse, have the paper's hyperparameters, and train."""

from __future__ import annotations

import functools
import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from avrt.cli import TRAINING, main
from avrt.config.optimizer_steps import accumulation
from avrt.config.scan import scan_file

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "cli_configs"
OVERLAYS = sorted((CONFIGS / "overlays").glob("*.yaml"))
BIG = ("sft_3b", "grpo_3b", "sft_7b", "grpo_7b")
GRPO_ONLY = ("dynamic_sampling",)
"""Overlays of settings that supervised fine-tuning does not have."""


def read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def command(path: Path) -> str:
    """The command that a file's header gives for it."""
    found = re.search(rf"python -m avrt ([\w-]+) --config cli_configs/{path.name}", path.read_text(encoding="utf-8"))
    assert found, f"{path.name}: the header has no command"
    return found[1]


COMMANDS = {path: command(path) for path in sorted(CONFIGS.glob("*.yaml"))}
LIGHTNING = [path for path, name in COMMANDS.items() if name in TRAINING]
FIT = [path for path, name in COMMANDS.items() if name == "fit"]


@functools.cache
def parser() -> Any:
    from lightning_modules import cli as lightning_cli

    return lightning_cli.parser()


def parse(*paths: Path) -> Any:
    """The settings of a run with these config files; later ones override earlier ones."""
    name = COMMANDS[paths[0]]
    words = itertools.chain.from_iterable(("--config", str(path)) for path in paths)
    return parser().parse_args([name, *words])[name]


def name(path: Path) -> str:
    return path.stem


def test_all_presets_are_there() -> None:
    assert {path.stem for path in FIT} >= {"sft_tiny", "grpo_tiny", *BIG}


@pytest.mark.parametrize("path", LIGHTNING, ids=name)
def test_a_preset_parses(path: Path) -> None:
    scan_file(path)
    settings = parse(path)
    assert settings.model.class_path.startswith("lightning_modules.")
    assert settings.trainer.use_distributed_sampler is False  # the data modules divide the samples themselves
    assert settings.trainer.num_sanity_val_steps == 0


MERGES = [(p, o) for p in FIT for o in OVERLAYS if p.stem.startswith("grpo") or o.stem not in GRPO_ONLY]


@pytest.mark.parametrize(("path", "overlay"), MERGES, ids=name)
def test_an_overlay_merges_with_every_preset(path: Path, overlay: Path) -> None:
    scan_file(overlay)
    alone, both = parse(path), parse(path, overlay)
    before = [callback.class_path for callback in alone.trainer.callbacks]
    assert [callback.class_path for callback in both.trainer.callbacks][: len(before)] == before
    assert both.model.class_path == alone.model.class_path
    assert both.model.init_args.student.path == alone.model.init_args.student.path


@pytest.mark.parametrize("path", [*COMMANDS, *OVERLAYS], ids=name)
def test_a_file_begins_with_its_header(path: Path) -> None:
    header = re.match(r"(?:#.*\n)+", path.read_text(encoding="utf-8"))
    assert header, "starts with comments"
    titles = re.findall(r"^# (\w+): ", header[0], re.MULTILINE)
    order = ["Purpose", "Command", "Hardware", "Data", "Output", "Expect", "Paper"]
    assert titles == [title for title in order if title in titles]
    assert {"Purpose", "Command", "Hardware", "Expect"} <= set(titles)
    assert "python -m avrt " in header[0]
    assert f"--config cli_configs/{path.relative_to(CONFIGS)}" in header[0]
    assert "config" not in read(path), "`config:` inside a YAML merges shallowly"


@pytest.mark.parametrize("preset", BIG)
def test_the_presets_have_the_papers_hyperparameters(preset: str) -> None:
    """The numbers of the paper's section 4.3 and, where it is silent, of the method page."""
    settings = parse(CONFIGS / f"{preset}.yaml")
    trainer, model, data = settings.trainer, settings.model.init_args, settings.data.init_args
    assert trainer.max_epochs == 1
    assert (data.prompts_per_step, data.batch_size, trainer.devices) == (32, 1, 4)
    assert (trainer.accumulate_grad_batches, trainer.val_check_interval) == (1, None), (
        "they follow from the data's keys"
    )
    assert trainer.precision == "bf16-true"
    assert trainer.strategy == "avrt_zero2_offload"
    optimizer = model.optimizer
    assert (optimizer.learning_rate, optimizer.schedule, optimizer.warmup_steps) == (2e-6, "cosine", 100)
    assert (tuple(optimizer.betas), optimizer.eps, optimizer.weight_decay) == ((0.9, 0.999), 1e-8, 0.01)
    assert model.student.dtype == "bfloat16"
    if preset.startswith("sft"):
        assert model.student.path == f"Qwen/Qwen2.5-Omni-{preset[-2:].upper()}"
        return
    assert (model.num_generations, model.loss.epsilon, model.loss.beta, model.sampling.temperature) == (
        4,
        0.2,
        0.01,
        1.0,
    )
    assert (model.loss.type, model.num_iterations, model.loss.scale_rewards) == ("grpo", 1, "group")
    assert (model.loss.epsilon_high, model.loss.importance_sampling_level) == (None, "token")
    rewards = {c.class_path: c.get("init_args", {}) for c in trainer.callbacks if c.class_path.startswith("avrt.rew")}
    assert list(rewards) == [f"avrt.rewards.{kind}Reward" for kind in ("Format", "Accuracy", "Length")]
    length = rewards["avrt.rewards.LengthReward"]
    assert (length.mu, length.sigma, length.w_min, length.w_max, length.bonus) == (100, 20, 100, 200, 0.2)
    assert [reward.weight for reward in rewards.values()] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("path", "overlay"), [(p, o) for p, o in MERGES if p.stem in BIG and o.stem not in ("debug", "laptop")], ids=name
)
def test_an_overlay_keeps_the_papers_steps(path: Path, overlay: Path) -> None:
    """32 prompts in each, and validation and checkpoints as often as without it."""
    settings = parse(path, overlay)
    trainer, data = settings.trainer, settings.data.init_args
    assert (data.prompts_per_step, data.val_every_n_steps) == (32, 100)
    assert (
        accumulation(32, data.batch_size, trainer.devices * trainer.num_nodes) * trainer.devices * trainer.num_nodes
        == 32
    )
    assert not [callback.class_path for callback in trainer.callbacks if "Checkpoint" in callback.class_path]


@pytest.mark.parametrize("preset", BIG)
def test_a_preset_trains_on_a_laptop_with_a_tiny_student(
    preset: str, student_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole command, from the file to the checkpoints; only sizes and places are changed."""
    from tests.lightning_modules.callbacks.tiny_runs import events, write_shards

    train, val = write_shards(tmp_path / "shards", train=4, val=2)
    monkeypatch.chdir(tmp_path)  # presets write to runs/ of the working directory
    limits = {
        "trainer.max_steps": 1,
        "data.val_every_n_steps": 1,
        "trainer.enable_progress_bar": "false",
        "model.student.path": student_folder,
        "model.student.min_pixels": 3136,
        "model.student.max_pixels": 3136,
        "model.val_max_completion_length": 4,
        "data.train": train,
        "data.val": val,
        "data.num_workers": 0,
    }
    if preset.startswith("grpo"):
        limits["model.sampling.max_completion_length"] = 4
    files = [CONFIGS / f"{preset}.yaml", CONFIGS / "overlays" / "laptop.yaml"]
    words = [f"--config={path}" for path in files] + [f"--{key}={value}" for key, value in limits.items()]
    assert main(["fit", *words]) == 0
    run = tmp_path / "runs" / preset
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "step=0000001.ckpt"}
    tags = events(run).Tags()
    assert {"loss", "val/accuracy", "throughput/tokens_per_second", "learning_rate"} <= set(tags["scalars"])
    assert "samples/validation/text_summary" in tags["tensors"]
