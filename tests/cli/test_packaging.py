"""Contents of the wheel, and pinned versions of all dependencies."""

from __future__ import annotations

import configparser
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import avrt.__main__

ROOT = Path(__file__).resolve().parents[2]
METADATA = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CONSTRAINTS = METADATA["tool"]["uv"]["constraint-dependencies"]
PINS = dict(entry.split("==") for entry in CONSTRAINTS)


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared() -> list[str]:
    project = METADATA["project"]
    groups = [*project["optional-dependencies"].values(), *METADATA["dependency-groups"].values()]
    return [
        *METADATA["build-system"]["requires"],
        *project["dependencies"],
        *(entry for group in groups for entry in group),
    ]


def tracked_files() -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout: nothing tells which files are the repository's")
    return [ROOT / name for name in listing.stdout.decode().split("\0") if name]


@pytest.mark.parametrize("requirement", declared())
def test_every_direct_dependency_is_pinned_exactly(requirement: str) -> None:
    found = re.fullmatch(r"([A-Za-z0-9._-]+)(\[[a-z0-9,]+\])?==([0-9][0-9a-z.]*)", requirement)
    assert found, requirement
    assert PINS[normal(found[1])] == found[3]


def test_every_installed_package_is_pinned_at_its_version() -> None:
    """Walks from the project's own requirements, so that a tool installed by hand beside it does not matter."""
    from packaging.requirements import Requirement

    pending = [Requirement(entry) for entry in declared() if not entry.startswith("ray")]
    seen: set[tuple[str, frozenset[str]]] = set()
    wrong = {}
    while pending:
        requirement = pending.pop()
        name, extras = normal(requirement.name), frozenset(requirement.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # wanted on another platform, or by an extra that is not installed
        if PINS.get(name) != distribution.version:
            wrong[name] = (PINS.get(name), distribution.version)
        for text in distribution.requires or []:
            inner = Requirement(text)
            environments = [{"extra": extra} for extra in extras] or [{"extra": ""}]
            if inner.marker is None or any(inner.marker.evaluate(environment) for environment in environments):
                pending.append(inner)
    assert wrong == {}
    assert len(seen) > 100


def test_hash_locked_requirements_agree_with_the_pins() -> None:
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    entries = re.split(r"\n(?=[a-z])", text.strip())
    versions = {}
    for entry in entries:
        found = re.match(r"([a-z0-9-]+)(?:\[[a-z,]+\])?==([0-9][^ ;]*)", entry)
        assert found, entry[:80]
        versions[found[1]] = found[2]
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), found[1]
    assert {name: PINS[name] for name in versions} == versions
    assert {normal(entry.split("==")[0].split("[")[0]) for entry in METADATA["project"]["dependencies"]} <= set(
        versions
    )


def test_pins_are_read_from_a_resolution() -> None:
    spec = importlib.util.spec_from_file_location("pins", ROOT / "tools" / "pins.py")
    pins = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pins)
    registry = {"registry": "somewhere"}
    lock = {
        "package": [
            {"name": "zebra", "version": "1.0", "source": registry},
            {"name": "avrt", "version": "0.1.0", "source": {"editable": "."}},
            {"name": "ape", "version": "2.10.0", "source": registry},
            {"name": "ape", "version": "2.9.1", "source": registry},
        ]
    }
    assert list(pins.pins(lock).items()) == [("ape", "2.9.1"), ("zebra", "1.0")]


def test_no_committed_file_names_a_package_registry() -> None:
    hosts = re.compile(rb"https?://[^\s\"'>)]*(pypi\.|pythonhosted|npmjs|debian\.org|/simple\b)")
    found = [
        str(path.relative_to(ROOT)) for path in tracked_files() if path.is_file() and hosts.search(path.read_bytes())
    ]
    assert found == []
    assert ROOT / "uv.lock" not in tracked_files()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        yield archive


def test_the_wheel_holds_the_packages_and_the_configs(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    for package in ("avrt", "datamodules", "lightning_modules"):
        sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / package).rglob("*.py")}
        assert sources
        assert sources <= names
    configs = {f"avrt/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "cli_configs").rglob("*.yaml")}
    assert configs
    assert configs <= names
    assert "avrt/py.typed" in names
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_the_wheel_has_the_console_command(wheel: zipfile.ZipFile) -> None:
    (path,) = (name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt"))
    scripts = configparser.ConfigParser()
    scripts.read_string(wheel.read(path).decode())
    entry = importlib.metadata.EntryPoint("avrt", scripts["console_scripts"]["avrt"], "console_scripts")
    assert entry.load() is avrt.__main__.run
    code = f"import sys; from {entry.module} import {entry.attr}; sys.exit({entry.attr}())"
    done = subprocess.run(
        [sys.executable, "-c", code, "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"avrt {METADATA['project']['version']}\n"


def test_the_wheel_holds_nothing_else(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert tops == {"avrt", "datamodules", "lightning_modules", f"avrt-{METADATA['project']['version']}.dist-info"}
    assert not [name for name in wheel.namelist() if "test" in name.lower().split("/")]


def test_installed_presets_are_found_from_any_folder(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    installed, elsewhere = tmp_path / "site-packages", tmp_path / "elsewhere"
    wheel.extractall(installed)
    elsewhere.mkdir()

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "avrt", *words],
            cwd=elsewhere,
            env={**os.environ, "PYTHONPATH": str(installed)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2, done.stderr
        return done.stderr

    presets = installed / "avrt" / "cli_configs"
    misspelt = run("fit", "--config=cli_configs/grpo_tny.yaml")
    assert f"did you mean {presets / 'grpo_tiny.yaml'}" in misspelt
    # The config is found and read: the setting is refused.
    message = run("traces", "--config", "cli_configs/traces_demo.yaml", "--no_such_key=1")
    notice, error = message.splitlines()
    assert str(presets / "traces_demo.yaml") in notice
    assert "no_such_key" in error
    assert not list(elsewhere.iterdir())


def test_the_version_is_said_alike() -> None:
    import avrt

    assert METADATA["project"]["version"] == avrt.__version__


def test_the_ci_script_can_be_run_and_is_valid_bash() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
