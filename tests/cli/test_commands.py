"""The command line: lazy imports, help, and errors of its own commands."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from avrt.cli import COMMANDS, GROUPS, TRAINING, help_text, main
from avrt.config.errors import describe

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"av", "deepspeed", "jsonargparse", "lightning", "numpy", "rich", "torch", "transformers", "webdataset", "yaml"}


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


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["nonsense"], ["fit", "--config", "nowhere.yaml"]])
def test_help_and_quick_errors_import_nothing_heavy(words: list[str]) -> None:
    code = (
        f"import sys; from avrt.cli import main; main({words!r}); print('LOADED', sorted({HEAVY!r} & set(sys.modules)))"
    )
    assert in_new_process("-c", code).stdout.splitlines()[-1] == "LOADED []"


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_command_s_help_imports_nothing_heavy(name: str) -> None:
    code = f"""
import sys
from avrt.cli import main
from avrt.config.errors import describe
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


def test_an_option_before_the_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", "a.yaml", "fit"]) == 2
    assert "the command comes first" in capsys.readouterr().err


def test_a_closed_pipe_is_not_an_error() -> None:
    code = "import sys; from avrt.cli import main; sys.exit(main(['--help']))"
    with subprocess.Popen(
        [sys.executable, "-u", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() in (0, 141)  # 0 when everything was written before the pipe closed


def test_a_file_name_in_bytes_is_shown_as_text() -> None:
    assert describe(FileNotFoundError(2, "No such file", b"a.tar")) == "a.tar: No such file"


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
    for word, fix in (("--cuont=3", "did you mean --count?"), ("--x", "see --help")):
        assert main(["count", word]) == 2
        option = word.partition("=")[0]
        assert capsys.readouterr().err == f"avrt: error: python -m avrt count: unknown option {option}; {fix}\n"
