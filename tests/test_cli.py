"""The command line as a user meets it: laziness, errors, exit status, and a run from start to resume."""

from __future__ import annotations

import copy
import importlib
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml

from avrt.cli import COMMANDS, GROUPS, TRAINING, help_text, main

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"av", "deepspeed", "jsonargparse", "lightning", "numpy", "rich", "torch", "transformers", "webdataset", "yaml"}

PACKAGE = """
    import os
    from dataclasses import dataclass, field
    from typing import Any, Literal

    import lightning.pytorch as pl
    import torch


    @dataclass
    class Schedule:
        warmup_steps: int = 10


    class Module(pl.LightningModule):
        def __init__(
            self,
            model: str,
            beta: float = 0.04,
            group_size: int = 8,
            loss_type: Literal["grpo", "dapo"] = "grpo",
            schedule: Schedule = Schedule(),
            second_schedule: Schedule | None = None,
            anything: Any = None,
            fault: str = "",
        ):
            super().__init__()
            if model != "tiny":
                raise ValueError(f"model: there is no model {model!r}; use 'tiny'")
            if fault == "bug in init":
                raise TypeError("a fault of the program")
            self.fault = fault
            self.anything = anything
            self.layer = torch.nn.Linear(1, 1)

        def training_step(self, batch, index):
            faults = {
                "value": ValueError("val_split: 'dev' is no split"),
                "file": FileNotFoundError(2, "No such file or directory", "shards/000.tar"),
                "bug": RuntimeError("a fault of the program"),
                "preempted": SystemExit(75),
                "keyboard": KeyboardInterrupt(),
            }
            if self.fault:
                raise faults[self.fault]
            return self.layer(batch).sum()

        def test_step(self, batch, index):
            return None

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)


    class Data(pl.LightningDataModule):
        def __init__(self, shards: str = "x"):
            super().__init__()

        def train_dataloader(self):
            return torch.utils.data.DataLoader(torch.ones(4, 1))

        test_dataloader = train_dataloader


    class Reward(pl.Callback):
        def __init__(self, weight: float = 1.0):
            print(f"reward of weight {weight}")
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of an installed package that is not the project's: a user's own."""
    # Lightning's log handler keeps the stderr of the moment it is imported: not that of one test, which is closed later.
    import lightning.pytorch  # noqa: F401

    folder = tmp_path_factory.mktemp("user")
    (folder / "users_package.py").write_text(textwrap.dedent(PACKAGE))
    sys.path.insert(0, str(folder))
    yield "users_package"
    sys.path.remove(str(folder))


@pytest.fixture
def config(package: str, tmp_path: Path) -> dict:
    """A complete run that takes no time."""
    return {
        "seed_everything": 1,
        "trainer": {
            "max_steps": 1,
            "accelerator": "cpu",
            "devices": 1,
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": str(tmp_path / "run"),
            "callbacks": [{"class_path": f"{package}.Reward", "init_args": {"weight": 2.0}}],
        },
        "model": {"class_path": f"{package}.Module", "init_args": {"model": "tiny"}},
        "data": {"class_path": f"{package}.Data"},
    }


class Runner:
    """Writes a config, runs a command on it in this process, and keeps what it said."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], package: str) -> None:
        self.path = folder / "run.yaml"
        self.capsys = capsys
        self.allow = ("--allow-classes", package)

    def __call__(self, config: dict, *words: str, command: str = "fit") -> tuple[int, str]:
        self.path.write_text(yaml.safe_dump(config, sort_keys=False))
        self.capsys.readouterr()
        status = main([command, "--config", str(self.path), *self.allow, *words])
        captured = self.capsys.readouterr()
        self.out = captured.out
        return status, captured.err

    def error(self, config: dict, *words: str) -> str:
        """The one line of a refused config."""
        status, err = self(config, *words)
        assert status == 2, err
        lines = [line for line in err.splitlines() if line.startswith("avrt: error: ")]
        assert len(lines) == 1, err
        assert "Traceback" not in err
        return lines[0].removeprefix("avrt: error: ")


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], package: str) -> Runner:
    return Runner(tmp_path, capsys, package)


def changed(config: dict, path: str, value: object) -> dict:
    """A copy with the entry at `path` (parts joined by ``/``) set to `value`."""
    result = copy.deepcopy(config)
    *parents, last = path.split("/")
    place = result
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else place.setdefault(part, {})
    place[last] = value
    return result


def in_new_process(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        cwd=ROOT,
        env={**os.environ, **environment},
        check=False,
    )


# Laziness


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["nonsense"], ["fit", "--config", "nowhere.yaml"]])
def test_quick_answers_import_nothing_heavy(words: list[str]) -> None:
    code = (
        f"import sys; from avrt.cli import main; main({words!r}); print('LOADED', sorted({HEAVY!r} & set(sys.modules)))"
    )
    assert in_new_process("-c", code).stdout.splitlines()[-1] == "LOADED []"


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_command_s_help_imports_nothing_heavy(name: str) -> None:
    code = f"""
import sys
from avrt.cli import main
try:
    main([{name!r}, "--help"])
except SystemExit as exit:
    print("LOADED", exit.code, sorted({HEAVY!r} & set(sys.modules)))
"""
    result = in_new_process("-c", code)
    assert result.stdout.splitlines()[-1] == "LOADED 0 []", result.stderr
    assert f"python -m avrt {name}" in result.stdout


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_commands_keep_the_convention(name: str) -> None:
    module = importlib.import_module(COMMANDS[name][0])
    assert module.__doc__
    assert callable(module.add_arguments)
    assert callable(module.run)


def test_help_lists_every_command_in_its_group() -> None:
    text = help_text()
    blocks = {block.split(":")[0]: block for block in text.split("\n\n")}
    assert all(f"\n  {name} " in blocks["Training"] for name in TRAINING)
    for title, commands in GROUPS.items():
        assert all(f"\n  {name} " in blocks[title] for name in commands)


def test_module_entry_point_passes_the_status_on() -> None:
    done = in_new_process("-m", "avrt", "--help")
    wrong = in_new_process("-m", "avrt", "fti")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: python -m avrt COMMAND")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "avrt: error: unknown command 'fti'; did you mean 'fit'?\n"


def test_option_before_the_command_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", "a.yaml", "fit"]) == 2
    assert "the command comes first" in capsys.readouterr().err


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
    ("trainer/accelerator", "abacus", "invalid accelerator name"),
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
    ("--model.init_args.bet=1", "model.init_args.bet: Module has no such argument; did you mean 'beta'?"),
    ("stray", "'stray' is not understood here; settings are given as --key=value"),
    ("--config", "--config: expects a file"),
    ("--allow-classes", "--allow-classes: expects the name of a package"),
]


@pytest.mark.parametrize(("word", "line"), WRONG_WORDS, ids=[word for word, _ in WRONG_WORDS])
def test_a_wrong_word_is_one_line_that_names_the_option(run: Runner, config: dict, word: str, line: str) -> None:
    assert line in run.error(config, word)


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


# Runs


def test_fit_runs_and_goes_on_in_the_same_folder(run: Runner, config: dict, tmp_path: Path) -> None:
    status, err = run(config)
    assert status == 0, err
    assert "reward of weight 2.0" in run.out
    saved = tmp_path / "run" / "config.yaml"
    assert yaml.safe_load(saved.read_text())["trainer"]["max_steps"] == 1
    checkpoint = next((tmp_path / "run" / "checkpoints").glob("*.ckpt"))

    # The files decide, not what a checkpoint remembers; and the folder is no obstacle.
    status, err = run(config, "--trainer.max_steps=2", f"--ckpt_path={checkpoint}")
    assert status == 0, err
    assert yaml.safe_load(saved.read_text())["trainer"]["max_steps"] == 2

    before = saved.read_bytes()
    status, err = run(config, command="test")
    assert status == 0, err
    assert saved.read_bytes() == before
    assert (tmp_path / "run" / "config_test.yaml").is_file()


def test_the_saved_config_is_a_config(run: Runner, config: dict, tmp_path: Path) -> None:
    assert run(config)[0] == 0
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert run(saved)[0] == 0


@pytest.mark.parametrize(
    ("fault", "line"),
    [("value", "val_split: 'dev' is no split"), ("file", "shards/000.tar: No such file or directory")],
)
def test_a_failure_in_the_run_is_one_line_and_status_1(run: Runner, config: dict, fault: str, line: str) -> None:
    status, err = run(changed(config, "model/init_args/fault", fault))
    assert status == 1
    assert err.splitlines()[-1] == f"avrt: error: {line}"
    assert "Traceback" not in err


def test_a_missing_checkpoint_is_named(run: Runner, config: dict) -> None:
    status, err = run(config, "--ckpt_path=nowhere.ckpt")
    assert status == 1
    assert "nowhere.ckpt" in err.splitlines()[-1]
    assert "Traceback" not in err


@pytest.mark.parametrize(("fault", "error"), [("bug", RuntimeError), ("bug in init", TypeError)])
def test_a_fault_of_the_program_keeps_its_traceback(
    run: Runner, config: dict, fault: str, error: type[Exception]
) -> None:
    with pytest.raises(error, match="a fault of the program"):
        run(changed(config, "model/init_args/fault", fault))


def test_a_run_s_own_exit_status_is_passed_on(run: Runner, config: dict) -> None:
    with pytest.raises(SystemExit) as exit_info:
        run(changed(config, "model/init_args/fault", "preempted"))
    assert exit_info.value.code == 75


def test_ctrl_c_is_130(run: Runner, config: dict) -> None:
    import signal

    handler = signal.getsignal(signal.SIGINT)
    try:
        status, err = run(changed(config, "model/init_args/fault", "keyboard"))
    finally:
        signal.signal(signal.SIGINT, handler)  # Lightning ignores it from then on
    assert status == 130
    assert err.splitlines()[-1] == "avrt: error: interrupted"


def test_a_closed_pipe_is_no_error() -> None:
    code = "import sys; from avrt.cli import main; sys.exit(main(['--help']))"
    with subprocess.Popen(
        [sys.executable, "-u", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() in (0, 141)  # 0 when everything was written before the pipe closed


def test_command_mistakes_are_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """An own command's argument errors and its ValueErrors and OSErrors, on a real module of the same form."""
    import types

    module = types.ModuleType("avrt_test_command", "Counts.")
    module.add_arguments = lambda parser: parser.add_argument("--count", type=int, required=True)

    def run_command(args) -> int:
        if args.count < 0:
            raise ValueError("--count: must be 0 or more")
        (Path("nowhere") / str(args.count)).read_text()
        return 0

    module.run = run_command
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(COMMANDS, "count", (module.__name__, "count"))
    said = []
    for words in (["count"], ["count", "--count=x"], ["count", "--count=-1"], ["count", "--count=3"]):
        said.append((main(words), capsys.readouterr().err))
    assert said[0] == (
        2,
        "avrt: error: python -m avrt count: the following arguments are required: --count (see --help)\n",
    )
    assert said[1][0] == 2
    assert said[1][1].count("\n") == 1
    assert said[2] == (1, "avrt: error: --count: must be 0 or more\n")
    assert said[3] == (1, "avrt: error: nowhere/3: No such file or directory\n")
