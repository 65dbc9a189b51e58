"""Mistakes in a config or on the command line of a training: one line each, with the key and how to fix it."""

from __future__ import annotations

from pathlib import Path

import pytest

from avrt.cli import main
from tests.cli.runner import Runner, changed

# Wrong configs: (path in the config, value, part of the line)

# fmt: off
# ruff: noqa: E501
WRONG_VALUES = [
    ("traner", {"x": 1}, "traner.x: unknown key; did you mean 'trainer'?"),
    ("trainer/max_stepss", 1, "trainer.max_stepss: unknown key; did you mean 'max_steps'?"),
    ("trainer/max_steps", "many", "trainer.max_steps: must be a whole number; got 'many'"),
    ("trainer/strategy", 3, "trainer.strategy: must be text or a class, given as `class_path: ...` and `init_args: ...`"),
    ("model/init_args/group_sizee", 1, "model.group_sizee: unknown key; did you mean 'group_size'"),
    ("model/init_args/group_size", "x", "model.group_size: must be a whole number; got 'x'"),
    ("model/init_args/loss_type", "ppo", "model.loss_type: must be one of 'grpo', 'dapo'; got 'ppo'"),
    ("model/init_args/schedule", {"warmup": 1}, "model.schedule.warmup: unknown key; did you mean 'warmup_steps'?"),
    ("model/init_args/schedule", {"lr": 1}, "model.schedule.lr: unknown key; choose from warmup_steps"),
    ("model/init_args/second_schedule", {"warmup": 1}, "model.second_schedule.warmup: unknown key; did you mean 'warmup_steps'?"),
    ("model/init_args/schedule", {"warmup_steps": "x"}, "model.schedule.warmup_steps: must be a whole number"),
    ("model/init_args/schedule", {"warmup_steps": -1}, "model.schedule.warmup_steps must be 0 or more, got -1"),
    (
        "model/init_args/second_schedule",
        {"warmup_steps": -1},
        "model.second_schedule.warmup_steps must be 0 or more, got -1",
    ),
    ("model/init_args", {}, "model.model: is required and missing"),
    ("model/init_args/model", "huge", "model.model: there is no model 'huge'; use 'tiny'"),
    ("model/init_args/beta", -1, "model.beta must be 0 or more, got -1"),
    ("model/class_path", "users_package.Modul", "model: there is no class 'users_package.Modul'; did you mean 'Module'?"),
    ("model/class_path", "avrt.nowhere.Module", "model: there is no class 'avrt.nowhere.Module'"),
    ("model/class_path", "users_package.Reward", "model: users_package.Reward is not a subclass of LightningModule"),
    ("model/class_path", "Nothing", "model: Expected a dot import path string: Nothing"),
    ("model", None, "model: is required and missing"),
    ("model", {"clas_path": "users_package.Module", "init_args": {}}, "model: must be a class, given as `class_path: ...`"),
    ("trainer", [1], "trainer: must be a mapping of settings"),
    ("trainer", None, "trainer: must be a mapping of settings"),
    ("trainer/strategy", "ddp_foo", "trainer.strategy: 'ddp_foo' is not supported; did you mean 'ddp_fork'?"),
    ("model/init_args/schedule", None, "model.schedule: is empty; put its settings below it"),
    ("trainer/callbacks/0/init_args", {"weigth": 1}, "trainer.callbacks.weigth: unknown key; did you mean 'weight'?"),
    ("trainer/callbacks/0/init_args", {"weight": "heavy"}, "trainer.callbacks.weight: must be a number; got 'heavy'"),
    ("trainer/callbacks/0/init_args", {"weight": 0}, "trainer.callbacks.Reward.weight must be positive, got 0"),
    ("trainer/accelerator", "abacus", "invalid accelerator name"),
    ("trainer/accelerator", "gpu", "trainer.accelerator: is gpu, and torch finds no GPU here; set it to cpu"),
    ("trainer/accelerator", "tpu", "trainer.accelerator: 'tpu' cannot be used here (Requirement 'torch_xla"),
    ("trainer/strategy", "dddp", "trainer.strategy: 'dddp' is not supported; did you mean 'ddp'?"),
    ("trainer/strategy", "avrt_zero_2", "trainer.strategy: 'avrt_zero_2' is not supported; did you mean 'avrt_zero2'?"),
    ("trainer/strategy", "deepspeed_stage_2", "trainer.strategy: 'deepspeed_stage_2' is not supported; set it to one of auto, ddp, avrt_zero2"),
    ("trainer/strategy", "fsdp", "trainer.strategy: 'fsdp' is not supported"),
    ("seed_everything", -3, "seed_everything: must be a whole number from 0 to 4294967295, got -3"),
    ("torch_threads", 0, "torch_threads: must be a whole number above 0; got '0'"),
    ("config", "base.yaml", "config: a config inside a config is merged shallowly"),
]
# fmt: on


@pytest.mark.parametrize(("path", "value", "line"), WRONG_VALUES, ids=lambda value: str(value)[:40])
def test_a_wrong_config_is_one_line_that_names_the_key(
    run: Runner, config: dict, path: str, value: object, line: str
) -> None:
    assert line in run.error(changed(config, path, value))


WRONG_WORDS = [
    ("--trainer.max_stepss=3", "trainer.max_stepss: unknown key; did you mean 'max_steps'?"),
    ("--trainer.max_steps=x", "trainer.max_steps: must be a whole number; got 'x'"),
    ("--trainer.max_steps", "--trainer.max_steps: expects a value"),
    ("--trainer.max_step=3", "trainer.max_step: unknown key; did you mean 'max_steps'?"),
    ("--trainer.callbacks.weigth=1", "trainer.callbacks.weigth: unknown key; did you mean 'weight'?"),
    ("--model.bet=1", "model.bet: unknown key; did you mean 'beta'?"),
    ("--model.init_args.bet=1", "model.bet: unknown key; did you mean 'beta'?"),
    ("--model.schedule.lr=1", "model.schedule.lr: unknown key; choose from warmup_steps"),
    ("stray", "'stray' is not understood here; settings are given as --key=value"),
    ("--config", "--config: expects a file"),
    ("--allow-classes", "--allow-classes: expects the name of a package"),
]


@pytest.mark.parametrize(("word", "line"), WRONG_WORDS, ids=[word for word, _ in WRONG_WORDS])
def test_a_wrong_word_is_one_line_that_names_the_option(run: Runner, config: dict, word: str, line: str) -> None:
    assert line in run.error(config, word)


def test_a_run_without_a_config_names_the_missing_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("avrt: error: data: ")
    assert "--config" in line


ENGINES = [
    ("vlm", "model.rollout: must be one of 'builtin', 'vllm' or a class, given as `class_path: ...`"),
    ("os.system", "model.rollout: class path 'os.system' is refused"),
    ("avrt.rewards.FormatReward", "model.rollout: 'avrt.rewards.FormatReward' is not a subclass of EngineConfig"),
    ("avrt.rollout.vllm.VLLM --model.rollout.sleep_level=2", "model.rollout.sleep_level: must be one of 0, 1; got '2'"),
]


@pytest.mark.parametrize(("words", "line"), ENGINES)
def test_a_wrong_rollout_engine_is_one_line(words: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    preset = Path(__file__).resolve().parents[2] / "cli_configs" / "grpo_tiny.yaml"
    assert main(["fit", "--config", str(preset), "--model.rollout", *words.split()]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"avrt: error: {line}")


def test_a_refusal_that_was_caused_by_another_error_is_still_one_line(run: Runner, config: dict) -> None:
    line = run.error(changed(config, "model/init_args/fault", "chained in init"))
    assert line == "model.fault: refused, because of a key"


def test_a_module_without_a_test_step_is_refused(run: Runner, config: dict) -> None:
    status, err = run(changed(config, "model/class_path", "users_package.Untestable"), command="test")
    assert status == 2
    assert "model.class_path: `test` evaluates on benchmarks" in err.splitlines()[-1]


def test_debug_adds_the_traceback_wherever_it_is_given(
    run: Runner, config: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = changed(config, "trainer/max_steps", "many")
    for words in (["--debug"], ["--trainer.max_epochs=1", "--debug"]):
        status, err = run(wrong, *words)
        assert status == 2
        assert "Traceback" in err
        assert err.splitlines()[-1].startswith("avrt: error: trainer.max_steps")
    monkeypatch.setenv("AVRT_DEBUG", "1")
    assert "Traceback" in run(wrong)[1]
