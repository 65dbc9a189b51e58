"""Settings of a run as the plan reads them: its length, its demo paths, and what `fit` prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from avrt.cli import main
from avrt.config.class_paths import ALLOWED_PREFIXES, enforce
from avrt.data.shards import ShardSet
from avrt.planning.settings import read_settings
from tests.lightning_modules.training import write_shards

CONFIGS = Path(__file__).resolve().parents[2] / "cli_configs"


@pytest.mark.parametrize(
    ("trainer", "model", "steps"),
    [
        ({}, {}, 1_253),  # 40,127 questions, 32 in each step, the remainder is left out
        ({"max_steps": 100}, {}, 100),
        ({"max_steps": 2_000}, {}, 1_253),
        ({"max_steps": 2_000, "max_epochs": 2}, {}, 2_000),
        ({"max_steps": 100, "max_epochs": -1}, {}, 100),
        ({"max_epochs": 3}, {}, 3_759),
        ({"max_epochs": None}, {}, 1_253_000),  # Lightning's own number of epochs
        ({"max_epochs": None, "max_steps": 7}, {}, 7),
        ({"max_epochs": 0}, {}, 0),
        ({"limit_train_batches": 80}, {}, 10),
        ({"limit_train_batches": 0.5, "max_epochs": 2}, {}, 2 * 627),
        ({"fast_dev_run": 16}, {}, 2),
        ({"fast_dev_run": True, "accumulate_grad_batches": 1}, {}, 1),
        ({}, {"num_iterations": 2}, 2_506),
        # The schedule's end is not the run's.
        ({}, {"optimizer": {"total_steps": 500}}, 1_253),
        ({"max_steps": 100}, {"optimizer": {"total_steps": 500}}, 100),
        ({"max_epochs": -1}, {"optimizer": {"total_steps": 500}}, 500),
    ],
)
def test_the_length_of_a_run(tmp_path: Path, trainer: dict[str, Any], model: dict[str, Any], steps: int) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(json.dumps({"trainer": trainer, "model": {"init_args": model}}))
    settings = read_settings([str(CONFIGS / "grpo_7b.yaml"), str(overlay)], samples=40_127)
    enforce(ALLOWED_PREFIXES)
    assert settings.total_steps == steps


def test_the_length_of_a_run_by_its_shards(tmp_path: Path) -> None:
    """`data.train` may be a folder, several, a pattern, or one split of them."""
    shards = [write_shards(tmp_path / "a", 10, ["video", "audio"]), write_shards(tmp_path / "b", 7, ["audio_video"])]
    splits = ShardSet(str(shards[0])).splits
    overlay = tmp_path / "overlay.yaml"

    def steps(**data: Any) -> int | None:
        overlay.write_text(
            json.dumps({"trainer": {"devices": 1}, "data": {"init_args": {"prompts_per_step": 1, **data}}})
        )
        settings = read_settings([str(CONFIGS / "grpo_7b.yaml"), str(overlay)])
        enforce(ALLOWED_PREFIXES)
        return settings.total_steps

    folders = [str(folder) for folder in shards]
    assert steps(train=folders[0]) == 10
    assert steps(train=folders) == 17
    assert steps(train=[f"{folder}/*.tar" for folder in folders]) == 17
    assert steps(train=folders[0], train_split=splits[0]) == splits.count(splits[0])
    assert steps(train=str(tmp_path / "absent")) is None
    assert steps(train=f"{tmp_path}/absent/*.tar") is None


def test_plans_a_run_with_a_reward_of_another_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also one with an Enum among its settings."""
    (tmp_path / "planned_rewards.py").write_text(
        "import enum\nfrom avrt.rewards import RewardCallback\n"
        "class Mode(enum.Enum):\n    A = 1\n"
        "class Mine(RewardCallback):\n    name = 'mine'\n"
        "    def __init__(self, mode: Mode = Mode.A):\n        super().__init__()\n"
        "    def score(self, completions):\n        return [0.0 for _ in completions]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("AVRT_CACHE", str(tmp_path))
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(json.dumps({"trainer": {"callbacks+": [{"class_path": "planned_rewards.Mine"}]}}))
    words = ["plan", "--json", "--config", str(CONFIGS / "grpo_tiny.yaml"), "--config", str(overlay)]
    assert main([*words, "--allow-classes", "planned_rewards"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"]["total"] > 100_000


def test_plans_the_demo_without_building_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AVRT_CACHE", str(tmp_path))
    assert main(["plan", "--json", "--config", str(CONFIGS / "grpo_tiny.yaml")]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["parameters"]["total"] > 100_000
    assert plan["settings"]["total_steps"] == 110
    assert not list(tmp_path.iterdir())


def test_plans_the_settings_that_fit_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    preset = str(CONFIGS / "grpo_7b.yaml")
    with pytest.raises(SystemExit):
        main(["fit", "--config", preset, "--print_config"])
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    planned, again = (read_settings([file], samples=40_127) for file in (preset, str(printed)))
    enforce(ALLOWED_PREFIXES)
    assert again == planned
    assert (again.stage, again.offload, again.accumulate) == (2, True, 8)


def test_dynamic_sampling_gives_a_range_of_hours(capsys: pytest.CaptureFixture[str]) -> None:
    preset = ["--config", str(CONFIGS / "grpo_7b.yaml")]
    overlay = ["--config", str(CONFIGS / "overlays" / "dynamic_sampling.yaml")]
    plans = []
    for words in (preset, [*preset, *overlay]):
        assert main(["plan", *words, "--samples", "40127", "--json"]) == 0
        plans.append(json.loads(capsys.readouterr().out))
    once, up_to = plans
    assert once["most_hours"] == once["hours"] == up_to["hours"]
    rollout = sum(once["step"]["seconds"][phase] for phase in ("embedding", "prefill", "decoding"))
    assert up_to["most_hours"] == pytest.approx(once["hours"] + 2 * 1253 * rollout / 3600)
    assert up_to["device_bytes"]["media_features"] == 2 * once["device_bytes"]["media_features"]
    assert main(["plan", *preset, *overlay, "--samples", "40127"]) == 0
    assert "3 times as many prompts" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rollout", "engine"),
    [
        ("builtin", ("builtin", 0.0, False)),
        ("vllm", ("in process", 0.4, True)),
        (
            {
                "class_path": "avrt.rollout.vllm.VLLM",
                "init_args": {"gpu_memory_utilization": 0.25, "sleep_level": 0},
            },
            ("in process", 0.25, False),
        ),
        (
            {
                "class_path": "avrt.rollout.vllm.VLLMServers",
                "init_args": {"urls": ["http://a:8200"], "weights_folder": "w"},
            },
            ("elsewhere", 0.0, False),
        ),
    ],
)
def test_the_engine_of_a_run(tmp_path: Path, rollout: Any, engine: tuple[str, float, bool]) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(json.dumps({"model": {"init_args": {"rollout": rollout}}}))
    settings = read_settings([str(CONFIGS / "grpo_7b.yaml"), str(overlay)], samples=1_000)
    enforce(ALLOWED_PREFIXES)
    assert (settings.engine, settings.engine_share, settings.engine_sleeps) == engine
    assert not settings.sample_ahead


def test_sampling_ahead_of_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    servers = {"class_path": "avrt.rollout.vllm.VLLMServers", "init_args": {"urls": ["http://a:8200"]}}
    overlay = tmp_path / "overlay.yaml"
    model = {"rollout": servers, "sample_ahead": True, "sampling_correction": {"mode": "sequence_mask"}}
    overlay.write_text(json.dumps({"model": {"init_args": model}}))
    configs = [str(CONFIGS / "grpo_7b.yaml"), str(overlay)]
    assert read_settings(configs, samples=1_000).sample_ahead
    enforce(ALLOWED_PREFIXES)
    assert main(["plan", *(word for config in configs for word in ("--config", config)), "--samples", "1000"]) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "s of the rest: a step takes the longer of the two" in output
