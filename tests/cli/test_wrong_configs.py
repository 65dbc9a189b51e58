"""Mistakes in a config or on the command line of a training: one line each, that names the key and the mend."""

from __future__ import annotations

import pytest

from avrt.cli import main
from tests.cli.runner import Runner, changed

# Wrong configs: (path in the config, value, the whole line)

# fmt: off
# ruff: noqa: E501
WRONG_VALUES = [
    ("traner", {"x": 1}, "traner: unknown key; did you mean 'trainer'?"),
    ("trainer/max_stepss", 1, "trainer.max_stepss: unknown key; did you mean 'max_steps'?"),
    ("trainer/max_steps", "many", "trainer.max_steps: must be a whole number; is 'many'"),
    ("trainer/strategy", 3, "trainer.strategy: must be text or a class, given as `class_path: ...` and `init_args: ...`"),
    ("model/init_args/group_sizee", 1, "model.init_args.group_sizee: Module has no such argument; did you mean 'group_size'"),
    ("model/init_args/group_size", "x", "model.init_args.group_size: must be a whole number; is 'x'"),
    ("model/init_args/loss_type", "ppo", "model.init_args.loss_type: must be one of 'grpo', 'dapo'; is 'ppo'"),
    ("model/init_args/schedule", {"warmup": 1}, "model.init_args.schedule.warmup: Module has no such argument; did you mean 'schedule.warmup_steps'?"),
    ("model/init_args/schedule", {"lr": 1}, "model.init_args.schedule.lr: Module has no such argument; schedule accepts warmup_steps"),
    ("model/init_args/schedule", {"model": 1}, "model.init_args.schedule.model: Module has no such argument; schedule accepts warmup_steps"),
    ("model/init_args/second_schedule", {"warmup": 1}, "model.init_args.second_schedule.warmup: Schedule has no such argument; did you mean 'warmup_steps'?"),
    ("model/init_args/schedule", {"warmup_steps": "x"}, "model.init_args.schedule.warmup_steps: must be a whole number"),
    ("model/init_args", {}, "model.init_args.model: is required by Module and missing"),
    ("model/init_args/model", "huge", "model: there is no model 'huge'; use 'tiny'"),
    ("model/class_path", "users_package.Modul", "model.class_path: users_package has no class 'Modul'; did you mean 'Module'?"),
    ("model/class_path", "avrt.nowhere.Module", "model.class_path: 'avrt.nowhere.Module' cannot be imported"),
    ("model/class_path", "users_package.Reward", "model: users_package.Reward is not a LightningModule"),
    ("model/class_path", "Nothing", "model: 'Nothing' is not a known class; give its full class path"),
    ("model", None, "model: is required and missing"),
    ("model", {"class_pth": "users_package.Module"}, "model: unknown key 'class_pth'; did you mean 'class_path'?"),
    ("model", {"clas_path": "users_package.Module", "init_args": {}}, "model: unknown key 'clas_path'; did you mean 'class_path'?"),
    ("model", {"init_args": {"beta": 1}}, "model: class_path is missing"),
    ("model/init_arg", {"beta": 1}, "model: unknown key 'init_arg'; did you mean 'init_args'?"),
    ("trainer", [1], "run.yaml, line 2: trainer: must be a mapping of settings"),
    ("trainer/callbacks/0/init_args", {"weigth": 1}, "trainer.callbacks.init_args.weigth: Reward has no such argument; did you mean 'weight'?"),
    ("trainer/callbacks/0/init_args", {"weight": "heavy"}, "trainer.callbacks.init_args.weight: must be a number; is 'heavy'"),
    ("trainer/callbacks", [{"class_path": "users_package.Reward"}, {"class_path": "users_package.Reward", "initargs": {"weight": 1.0}}], "trainer.callbacks: unknown key 'initargs'; did you mean 'init_args'?"),
    ("trainer/callbacks", [{"class_path": "users_package.Reward"}, {"clas_path": "users_package.Reward", "init_args": {}}], "trainer.callbacks: unknown key 'clas_path'; did you mean 'class_path'?"),
    ("trainer/accelerator", "abacus", "invalid accelerator name"),
    ("trainer/accelerator", "gpu", "trainer.accelerator: is gpu, and torch finds no GPU here; set it to cpu"),
    ("trainer/accelerator", "tpu", "trainer.accelerator: 'tpu' cannot be used here (Requirement 'torch_xla"),
    ("trainer/strategy", "dddp", "trainer.strategy: there is no strategy 'dddp'; did you mean 'ddp'?"),
    ("trainer/strategy", "lightning_modules.strategy.AVRTDeepSpedStrategy", "trainer.strategy: there is no strategy 'lightning_modules.strategy.AVRTDeepSpedStrategy'; did you mean 'lightning_modules.strategy.AVRTDeepSpeedStrategy'?"),
    ("trainer/strategy", "lightning_modules.strategy.AVRTDeepSpeedStrategy", "trainer.strategy: a class in a file needs its own key; write class_path: lightning_modules"),
    ("trainer/strategy", "abacus", "trainer.strategy: there is no strategy 'abacus'; set it to auto, to ddp, or to lightning_modules.strategy.AVRTDeepSpeedStrategy"),
    ("seed_everything", -3, "seed_everything: must be a whole number from 0 to 4294967295, is -3"),
    ("torch_threads", 0, "torch_threads: must be a whole number above 0; is "),
    ("config", "base.yaml", "config: a config inside a config is merged shallowly"),
]
# fmt: on


@pytest.mark.parametrize(("path", "value", "line"), WRONG_VALUES, ids=lambda value: str(value)[:40])
def test_a_wrong_config_is_one_line_that_names_the_key(
    run: Runner, config: dict, path: str, value: object, line: str
) -> None:
    assert line in run.error(changed(config, path, value))


WRONG_WORDS = [
    ("--trainer.max_stepss=3", "--trainer.max_stepss: unknown key; did you mean 'max_steps'?"),
    ("--trainer.max_steps=x", "trainer.max_steps: must be a whole number; is 'x'"),
    ("--trainer.max_steps", "--trainer.max_steps: expects a value"),
    ("--trainer.max_step=3", "--trainer.max_step: unknown key; did you mean 'max_steps'?"),
    (
        "--trainer.callbacks.weigth=1",
        "trainer.callbacks.init_args.weigth: Reward has no such argument; did you mean 'weight'?",
    ),
    ("--model.init_args.bet=1", "model.init_args.bet: Module has no such argument; did you mean 'beta'?"),
    (
        "--model.init_args.schedule.lr=1",
        "model.init_args.schedule.lr: Module has no such argument; schedule accepts warm",
    ),
    ("stray", "'stray' is not understood here; settings are given as --key=value"),
    ("--config", "--config: expects a file"),
    ("--allow-classes", "--allow-classes: expects the name of a package"),
]


@pytest.mark.parametrize(("word", "line"), WRONG_WORDS, ids=[word for word, _ in WRONG_WORDS])
def test_a_wrong_word_is_one_line_that_names_the_option(run: Runner, config: dict, word: str, line: str) -> None:
    assert line in run.error(config, word)


def test_a_run_without_config_names_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("avrt: error: data: ")
    assert "--config" in line


def test_a_refusal_that_was_caused_by_another_error_is_still_one_line(run: Runner, config: dict) -> None:
    line = run.error(changed(config, "model/init_args/fault", "chained in init"))
    assert line == "fault: refused, because of a key"


def test_a_module_that_cannot_be_tested_is_told_what_can(run: Runner, config: dict) -> None:
    status, err = run(changed(config, "model/class_path", "users_package.Untestable"), command="test")
    assert status == 2
    assert "model.class_path: `test` answers benchmarks" in err.splitlines()[-1]


def test_debug_adds_the_traceback_wherever_it_stands(
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
