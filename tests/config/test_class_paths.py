"""A class path outside the allowed packages is refused, and its module is never imported."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import pytest
import yaml

from avrt.cli import main
from avrt.config.class_paths import ALLOWED_PREFIXES, ENVIRONMENT_VARIABLE, allowed_prefixes, parse_prefixes


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that appears as soon as the module ``planted_module`` is imported."""
    import lightning.pytorch  # noqa: F401  # its log handler must not keep one test's captured stderr

    path = tmp_path / "imported"
    (tmp_path / "planted_module.py").write_text(f"open({str(path)!r}, 'w').close()\nclass Thing: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "planted_module", raising=False)
    return path


def fit(tmp_path: Path, config: dict | str, *words: str) -> int:
    path = tmp_path / "run.yaml"
    path.write_text(config if isinstance(config, str) else yaml.safe_dump(config))
    return main(["fit", "--config", str(path), *words])


PLACES = {
    "model": {"model": {"class_path": "planted_module.Thing"}},
    "model, short": {"model": "planted_module.Thing"},
    "data": {"data": {"class_path": "planted_module.Thing", "init_args": {}}},
    "callback": {"trainer": {"callbacks": [{"class_path": "planted_module.Thing"}]}},
    "callback, short": {"trainer": {"callbacks": ["planted_module.Thing"]}},
    "logger": {"trainer": {"logger": {"class_path": "planted_module.Thing"}}},
    "strategy": {"trainer": {"strategy": {"class_path": "planted_module.Thing"}}},
    "nested": {
        "trainer": {
            "callbacks": [
                {
                    "class_path": "lightning.pytorch.callbacks.LambdaCallback",
                    "init_args": {"on_fit_start": "planted_module.Thing"},
                }
            ]
        }
    },
}


@pytest.mark.parametrize("place", PLACES)
def test_refused_in_a_config_before_import(
    place: str, tmp_path: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(tmp_path, PLACES[place]) == 2
    err = capsys.readouterr().err
    assert "class path 'planted_module.Thing' is refused" in err
    assert "--allow-classes planted_module" in err
    assert not marker.exists()
    assert "planted_module" not in sys.modules


@pytest.mark.parametrize(
    "arguments",
    [
        {"init_args": {"x": [{"class_path": "planted_module.Thing"}]}},
        {"dict_kwargs": {"x": {"class_path": "planted_module.Thing"}}},
    ],
)
def test_an_entry_that_looks_like_a_class_is_not_imported(tmp_path: Path, marker: Path, arguments: dict) -> None:
    config = {"model": {"class_path": "LightningModule", **arguments}, "data": {"class_path": "LightningDataModule"}}
    with contextlib.suppress(Exception):  # such arguments may suit no module; only the import matters here
        assert fit(tmp_path, config) == 2
    assert not marker.exists()
    assert "planted_module" not in sys.modules


@pytest.mark.parametrize(
    "word",
    [
        "--model=planted_module.Thing",
        "--model.class_path=planted_module.Thing",
        "--data=planted_module.Thing",
        "--trainer.callbacks=planted_module.Thing",
        "--trainer.callbacks+=planted_module.Thing",
        "--trainer.callbacks.class_path=planted_module.Thing",
        '--trainer.callbacks=[{"class_path": "planted_module.Thing"}]',
        '--trainer={"logger": {"class_path": "planted_module.Thing"}}',
        '--config={"model": {"class_path": "planted_module.Thing"}}',
        "--model.help=planted_module.Thing",
        "--trainer.callbacks.help=planted_module.Thing",
        "--trainer.strategy=planted_module.Thing",
    ],
)
@pytest.mark.parametrize("form", ["one word", "two words"])
def test_refused_on_the_command_line_before_import(
    word: str, form: str, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word] if form == "one word" else word.split("=", 1)
    if words[0].endswith("+"):
        words = [word]  # an option that appends takes its value after the equals sign only
    if word.startswith("--trainer.strategy"):
        # A strategy may be a mere name, so the text reaches the trainer, which knows no strategy of that name.
        assert main(["fit", *words]) == 2
    else:
        assert main(["fit", *words]) == 2
        assert "class path 'planted_module.Thing' is refused" in capsys.readouterr().err
    assert not marker.exists()


@pytest.mark.parametrize(
    "class_path", ["os.system", "subprocess.Popen", "builtins.eval", "posix.system", "importlib.import_module"]
)
def test_python_s_own_modules_are_never_allowed(
    class_path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marker = tmp_path / "ran"
    config = {"trainer": {"callbacks": [{"class_path": class_path, "init_args": {"args": f"touch {marker}"}}]}}
    assert fit(tmp_path, config) == 2
    err = capsys.readouterr().err
    assert f"class path {class_path!r} is refused: Python's own modules can run any code" in err
    assert "--allow-classes" not in err
    assert not marker.exists()
    top = class_path.split(".")[0]
    assert fit(tmp_path, config, f"--allow-classes={top}") == 2
    assert f"--allow-classes: {top!r} can run any code" in capsys.readouterr().err


def test_what_an_allowed_module_imports_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`avrt.cli` imports os, so the dotted name of ``os.system`` can start with ``avrt.``."""
    assert fit(tmp_path, {"trainer": {"callbacks": [{"class_path": "avrt.cli.os.system"}]}}) == 2
    assert "class path 'posix.system' is refused" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "model: !!python/object/apply:os.system ['touch {marker}']",
        "model: !!python/name:os.system",
        "!!python/object/apply:os.system ['touch {marker}']: 1",
        "model: !custom {{a: 1}}",
    ],
)
def test_yaml_tags_are_refused(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    marker = tmp_path / "ran"
    assert fit(tmp_path, text.format(marker=marker)) == 2
    err = capsys.readouterr().err
    assert "run.yaml, line 1" in err
    assert "is refused; use plain values" in err
    assert not marker.exists()


@pytest.mark.parametrize("how", ["flag", "flag in front", "environment"])
def test_a_user_s_package_is_allowed_by_name(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import lightning.pytorch  # noqa: F401

    name = f"own_package_{how.replace(' ', '_')}"
    (tmp_path / f"{name}.py").write_text("import lightning.pytorch as pl\nclass Mine(pl.LightningModule): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    config = tmp_path / "run.yaml"
    config.write_text(f"model: {{class_path: {name}.Mine}}\n")
    words = ["fit", "--config", str(config), "--print_config"]
    assert main(words) == 2
    assert name not in sys.modules
    if how == "environment":
        monkeypatch.setenv(ENVIRONMENT_VARIABLE, f"{name}.")
    elif how == "flag":
        words += ["--allow-classes", name]
    else:
        words = [f"--allow-classes={name}", *words]
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_info:
        main(words)
    assert exit_info.value.code == 0
    assert f"class_path: {name}.Mine" in capsys.readouterr().out
    assert name in sys.modules


@pytest.mark.parametrize(
    ("class_path", "allowed"),
    [
        ("planted_module.Thing", "planted"),
        ("planted_module.Thing", "planted_module.other"),
        ("torch.load", "mine"),
        ("lightning.pytorch.cli.instantiate_class", "mine"),
    ],
)
def test_a_prefix_is_a_whole_dotted_name(
    class_path: str, allowed: str, tmp_path: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(tmp_path, {"model": {"class_path": class_path}}, f"--allow-classes={allowed}") == 2
    assert f"class path {class_path!r} is refused" in capsys.readouterr().err
    assert not marker.exists()


def test_prefix_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_prefixes(" mypkg., other.rewards ,", "x") == ("mypkg", "other.rewards")
    for wrong in ("*", "my pkg", "my-pkg", "../x", "os", "os.path", "builtins", "jsonargparse"):
        with pytest.raises(ValueError, match="x: "):
            parse_prefixes(wrong, "x")
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "mine,")
    assert allowed_prefixes(["flag"]) == (*ALLOWED_PREFIXES, "flag", "mine")
