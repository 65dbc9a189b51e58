"""First commands of a new user: the wrong interpreter, an installed package, a read-only home."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

from avrt.cli import COMMANDS, REQUIRED_MODULES, TRAINING
from avrt.config.preset_files import with_preset_paths

ROOT = Path(__file__).resolve().parents[2]


def one_error(done: subprocess.CompletedProcess[str], status: int = 2) -> str:
    """The one line that a command printed before it ended with `status`."""
    assert done.returncode == status, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("avrt: error: ")
    return line


def old_pythons() -> list[Path]:
    """Interpreters of this machine that are older than the project needs."""
    places = [*Path.home().glob(".pyenv/versions/3.*/bin/python3"), *Path("/usr/bin").glob("python3.?")]
    places += Path("/usr/bin").glob("python3.10")
    return sorted(
        path for path in places if (found := re.search(r"3\.(\d+)", str(path))) is not None and int(found[1]) < 11
    )


def test_an_old_python_names_the_version_that_is_needed() -> None:
    found = old_pythons()
    if not found:
        pytest.skip("no Python older than 3.11 on this machine")
    for python in found:
        done = subprocess.run([python, "-m", "avrt", "fit"], cwd=ROOT, capture_output=True, text=True, check=False)
        line = one_error(done)
        assert all(part in line for part in (str(python), "3.11", "uv run"))


def test_the_entry_point_compiles_in_an_old_python() -> None:
    """Even if no old interpreter is installed: the two files compile as Python 3.6."""
    import ast

    for name in ("__init__.py", "__main__.py"):
        ast.parse((ROOT / "avrt" / name).read_text(encoding="utf-8"), feature_version=(3, 6))


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter without any package."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False, symlinks=True)
    return folder / "bin" / "python"


TOUCHES_DEPENDENCIES = {
    "plan": ["--config", "cli_configs/grpo_7b.yaml"],
    "export": ["run", "--out", "out"],
    "rollout-server": ["--model", "m", "--weights", "w"],
    "pack": ["--annotations", "a", "--videos", "b", "--out", "c"],
    "inspect": ["shards"],
    "traces": ["--config", "cli_configs/traces_demo.yaml"],
    "judge": ["--config", "cli_configs/judge.yaml"],
    "evaluate-server": ["--config", "cli_configs/eval_server.yaml"],
    "claims": ["--config", "cli_configs/claims.yaml", "--run", "r", "--out", "o"],
    "import-predictions": ["run", "--file", "f", "--benchmark", "mmau", "--model", "m"],
    "score": ["run"],
    "compare": ["run"],
    "subsets": ["--vision", "v", "--audio", "a", "--out", "o"],
    "report": ["run", "--out", "o"],
    "experiments": ["--config", "cli_configs/experiments/paper.yaml", "--list"],
    "demo": [],
    **{name: ["--config", "cli_configs/grpo_tiny.yaml"] for name in TRAINING},
}


def test_an_interpreter_without_the_packages_says_how_to_run_it(bare_python: Path) -> None:
    assert TOUCHES_DEPENDENCIES.keys() == {*COMMANDS, *TRAINING}
    for name, words in TOUCHES_DEPENDENCIES.items():
        done = subprocess.run(
            [bare_python, "-m", "avrt", name, *words], cwd=ROOT, capture_output=True, text=True, check=False
        )
        line = one_error(done)
        assert all(part in line for part in (str(bare_python), "uv run"))


def test_the_packages_that_tell_a_wrong_interpreter_are_the_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {re.split(r"[\[=]", entry)[0].lower() for entry in project["dependencies"]}
    importable = importlib.metadata.packages_distributions()
    installed = {name.lower().replace("_", "-") for module in REQUIRED_MODULES for name in importable[module]}
    assert installed >= {name.replace("_", "-") for name in declared}
    assert len(REQUIRED_MODULES) == len(declared)


def test_a_preset_is_found_where_the_working_directory_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    tiny, lora = ROOT / "cli_configs" / "grpo_tiny.yaml", ROOT / "cli_configs" / "overlays" / "lora.yaml"
    words = [
        "--config",
        "cli_configs/grpo_tiny.yaml",
        "--config=cli_configs/overlays/lora.yaml",
        "--name",
        "cli_configs",
    ]
    assert with_preset_paths(words, said.append) == ["--config", str(tiny), f"--config={lora}", "--name", "cli_configs"]
    assert len(said) == 2
    assert all(str(path) in line for path, line in zip((tiny, lora), said, strict=True))
    # A file of one's own comes first, and other paths are nobody's business.
    (tmp_path / "cli_configs").mkdir()
    (tmp_path / "cli_configs" / "grpo_tiny.yaml").touch()
    said.clear()
    for words in (["--config", "cli_configs/grpo_tiny.yaml"], ["-c", "mine/grpo_tiny.yaml"], ["--config"]):
        assert with_preset_paths(words, said.append) == words
    assert not said


def in_read_only(folder: Path, words: list[str]) -> list[str]:
    """A command line for which `folder` is read only."""
    folder.chmod(0o555)
    if os.geteuid():
        return words
    script = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'  # permissions do not bind root
    prefix = ["unshare", "--mount", "sh", "-c", script, str(folder)]
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount anything")
    return [*prefix, *words]


@pytest.mark.parametrize("variable", ["HOME", "XDG_CACHE_HOME"])
def test_a_cache_that_cannot_be_written_names_the_variable_to_set(tmp_path: Path, variable: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    words = [sys.executable, "-m", "avrt", "traces", "--config", "cli_configs/traces_demo.yaml"]
    done = subprocess.run(
        in_read_only(home, words),
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k not in ("AVRT_CACHE", "XDG_CACHE_HOME")} | {variable: str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    line = one_error(done, 1)
    assert str(home) in line
    assert "set XDG_CACHE_HOME" in line


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user without an entry")
def test_a_user_without_a_home_is_told_the_variable(tmp_path: Path) -> None:
    """As in a container with ``--user``."""
    code = (
        "import os\n"
        "from avrt.demo.prepare import cache_folder\n"
        "from avrt.demo.settings import DemoSettings\n"
        "settings = DemoSettings()\n"
        "type(settings).version = 'v'\n"
        "os.environ.pop('HOME'); os.setgroups([]); os.setgid(65533); os.setuid(65533)\n"
        "try: cache_folder(settings)\n"
        "except ValueError as error: print(error)\n"
    )
    kept = {k: v for k, v in os.environ.items() if k not in ("AVRT_CACHE", "XDG_CACHE_HOME")} | {"HOME": "/"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=kept, capture_output=True, text=True, check=False)
    assert "XDG_CACHE_HOME" in done.stdout, done.stderr
