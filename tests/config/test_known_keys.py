"""Unknown keys are reported before the heavy imports, in the parser's words, and nothing that is right is refused."""

from __future__ import annotations

import copy
import json
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from avrt.cli import TRAINING, _take_allowed_classes
from avrt.config import source_signatures
from avrt.config.class_paths import ALLOWED_PREFIXES
from avrt.config.errors import UsageError
from avrt.config.known_keys import check_keys
from avrt.config.source_signatures import find_class, parameters
from tests.config.test_configs import CONFIGS, LIGHTNING, MERGES, OVERLAYS, ROOT, command, name
from tests.programs import environment


def check(*words: str, command: str = "fit", allowed: tuple[str, ...] = ALLOWED_PREFIXES) -> None:
    check_keys(command, list(words), allowed)


def unknown(*words: str, **options: Any) -> str:
    with pytest.raises(UsageError) as error:
        check(*words, **options)
    return str(error.value)


# ---- nothing that is right is refused


@pytest.mark.parametrize("path", LIGHTNING, ids=name)
def test_every_preset_passes(path: Path) -> None:
    check("--config", str(path), command=command(path))


def test_every_overlay_passes_with_every_preset() -> None:
    for path, overlay in MERGES:
        check("--config", str(path), f"--config={overlay}")


def test_every_command_of_the_documentation_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *CONFIGS.rglob("*.yaml")]
    checked = 0
    for page in pages:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ").replace("\n#  ", " ")
        for found in re.finditer(rf"(?:python -m )?avrt ({'|'.join(TRAINING)}) ([^\n`#]+)", text):
            try:
                words, _ = _take_allowed_classes(shlex.split(re.split(r"&&|\||python", found[2])[0].rstrip(".;:,) ")))
            except ValueError:
                continue
            files = [words[i + 1] for i, word in enumerate(words[:-1]) if word == "--config"]
            if files and all(Path(file).is_file() for file in files):
                check(*words, command=found[1])
                checked += 1
    assert checked > 20


@pytest.mark.parametrize("model", ["lightning_modules.grpo.GRPOModule", "model.yaml"])
def test_a_section_that_is_a_name_replaces_the_earlier_files(tmp_path: Path, model: str) -> None:
    later = tmp_path / "later.yaml"
    later.write_text(f"model: {model}\n")
    check("--config", "cli_configs/sft_tiny.yaml", "--config", str(later), "--model.sampling.seed", "1")


def test_what_cannot_be_read_is_left_to_the_parser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes without source, from elsewhere, made at run time, or with arguments that they pass on."""
    (tmp_path / "own_classes.py").write_text(
        textwrap.dedent("""
        import missing_package
        from elsewhere import Thing as Imported
        from dataclasses import dataclass
        from own_classes import Loop
        Made = type("Made", (), {})
        @dataclass
        class Options:
            size: int = 0
        class Fine:
            def __init__(self, options: "Options | None" = None): ...
        class Passes:
            def __init__(self, **kwargs): ...
        class Strange(missing_package.Base): ...
        class Meta(metaclass=type): ...
        if True:
            class Conditional:
                def __init__(self, a: int): ...
        @missing_package.decorated
        class Decorated:
            def __init__(self, a: int): ...
        class Weighted:
            def __init__(self, weight: int): ...
        class Logged(Weighted): ...
        class Pattern(Weighted):
            def __init__(self, weight: int, pattern: str): ...
        class Diamond(Logged, Pattern): ...
        class Hidden:
            if True:
                def __init__(self, nonsense: int): ...
        class Bound:
            def __init__(self, a: int): ...
            __init__ = missing_package.other
        class Wrapped:
            @missing_package.more_arguments
            def __init__(self, a: int): ...
        class Group:
            def __init__(self, a: dict, b: "list[int]", c: missing_package.T, d: int | dict = 0): ...
        """)
    )
    monkeypatch.syspath_prepend(str(tmp_path))

    def listed(path: str, **init_args: Any) -> str:
        return json.dumps({"trainer": {"callbacks": [{"class_path": path, "init_args": init_args}]}})

    allowed = ("own_classes", "no_such_package")
    simple = ("Imported", "Loop", "Made", "Passes", "Strange", "Meta", "Conditional", "Decorated", "Nothing")
    for kind in (*simple, "Diamond", "Hidden", "Bound", "Wrapped"):
        check("--config", listed(f"own_classes.{kind}", nonsense=1), allowed=allowed)
    for key in "abcd":
        check("--config", listed("own_classes.Group", **{key: {"nonsense": 1}}), allowed=allowed)
    for path in ("no_such_package.Class", "own_classes.missing.Class", "Class", "os.system"):
        check("--config", listed(path, nonsense=1), allowed=allowed)
    for path, key in (("own_classes.Group", "nonsense"), ("own_classes.Fine", "options.nonsense")):
        settings = {"options": {"nonsense": 1}} if "." in key else {key: 1}
        line = unknown("--config", listed(path, **settings), allowed=allowed)
        assert line.startswith(f"trainer.callbacks.{key}: unknown key")
    check("--config", listed("own_classes.Fine", options={"size": 1}), allowed=allowed)
    monkeypatch.setattr("avrt.config.source_signatures._source_file", lambda module: None)
    source_signatures._names.cache_clear()
    check("--config", listed("own_classes.Fine", nonsense=1), "--nonsense", allowed=allowed)
    source_signatures._names.cache_clear()
    assert "own_classes" not in sys.modules, "nothing was imported"


@pytest.mark.parametrize(
    "words",
    [
        ["--model.help"],
        ["--trainer.callbacks.help=lightning_modules.callbacks.Watchdog"],
        ["--print_config=skip_default"],
        ["--model=SomethingShort", "--model.nonsense=1"],
        ["--trainer.callbacks+=lightning_modules.callbacks.Watchdog", "--trainer.callbacks.stall_minutes=3"],
        ["--model", "lightning_modules.sft.SFTModule", "--model.nonsense.deep=1", "--model", "other.Thing"],
        ["--seed_everything", "-3"],
        ["--", "--nonsense"],
        ["--data.init_args.batch_size", "2"],
        ["--data.dict_kwargs.anything", "2"],
        ["stray"],
    ],
    ids=str,
)
def test_options_that_pass(words: list[str]) -> None:
    if words[1:2] == ["lightning_modules.sft.SFTModule"]:
        assert unknown(*words).startswith("model.nonsense.deep: unknown key")
        return
    check("--config", str(CONFIGS / "grpo_tiny.yaml"), *words)


# ---- what is wrong is refused, in the parser's words


def renamed(settings: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Copies of the settings with one key misspelled, for every key that has a meaning."""
    if isinstance(settings, list):
        for index, entry in enumerate(settings):
            yield from (
                (where, [*settings[:index], new, *settings[index + 1 :]]) for where, new in renamed(entry, path)
            )
    elif isinstance(settings, dict):
        for key, value in settings.items():
            if key not in ("class_path", "init_args"):
                yield (*path, key), {k + "zz" if k == key else k: copy.deepcopy(v) for k, v in settings.items()}
            for where, new in renamed(value, (*path, key)):
                yield where, settings | {key: new}


@pytest.mark.parametrize("preset", ["grpo_tiny", "eval"])
def test_the_words_are_the_parsers(preset: str, tmp_path: Path) -> None:
    """Every key of a preset misspelled, one at a time, against the parser's own error."""
    from lightning_modules.cli import _parse, parser

    reader: Any = parser()
    path = CONFIGS / f"{preset}.yaml"
    name, found, missed = command(path), 0, []
    known = [action.dest for action in reader._subcommands_action._name_parser_map[name]._actions]
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    wrong = tmp_path / "wrong.yaml"
    for where, changed in renamed(settings):
        wrong.write_text(yaml.safe_dump(changed))
        with pytest.raises(UsageError) as theirs:
            _parse(reader, [name, "--config", str(wrong)], known)
        if "unknown key" not in str(theirs.value):  # a required key is now missing, or a key with any value
            continue
        try:
            check("--config", str(wrong), command=name)
        except UsageError as ours:
            # Below an unknown key the parser names another of its settings.
            (key, _, fault), (their_key, _, their_fault) = (str(e).partition(": ") for e in (ours, theirs.value))
            wrong_key = ".".join(where).replace(".init_args", "") + "zz"
            assert fault == their_fault
            assert key == their_key or (key.startswith(wrong_key) and their_key.startswith(wrong_key))
            found += 1
        else:
            missed.append(where)
    assert found > 15
    assert len(missed) <= found // 10, missed


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--modle.beta=1"], "modle.beta: unknown key; did you mean 'model'?"),
        (["--model.loss.betta=1"], "model.loss.betta: unknown key; did you mean 'beta'?"),
        (["--model.init_args.loss.betta", "1"], "model.loss.betta: unknown key; did you mean 'beta'?"),
        (["--model.student.pth=x"], "model.student.pth: unknown key; did you mean 'path'?"),
        (["--model.student.template.sytem=x"], "model.student.template.sytem: unknown key; did you mean 'system'?"),
        (["--data.batch_sise=1"], "data.batch_sise: unknown key; did you mean 'batch_size'?"),
        (["--trainer.max_stepss=1"], "trainer.max_stepss: unknown key; did you mean 'max_steps'?"),
        (["--trainer={max_stepss: 1}"], None),
        (["--output_dri", "x"], "output_dri: unknown key; did you mean 'output_dir'?"),
        (["-c", "{output_dri: x}"], "output_dri: unknown key; did you mean 'output_dir'?"),
        (["--config={model: {init_args: {lss: {}}}}"], "model.lss: unknown key; did you mean 'loss'?"),
    ],
    ids=str,
)
def test_wrong_options(words: list[str], line: str | None) -> None:
    words = ["--config", str(CONFIGS / "grpo_tiny.yaml"), *words]
    if line is None:
        check(*words)
    else:
        assert unknown(*words) == line


def test_keys_follow_the_class_that_the_command_line_chooses(tmp_path: Path) -> None:
    sft = ["--config", str(CONFIGS / "sft_tiny.yaml")]
    assert unknown(*sft, "--model.sampling.seed=1").startswith("model.sampling.seed: unknown key")
    check(*sft, "--model=lightning_modules.grpo.GRPOModule", "--model.sampling.seed=1")
    check(*sft, "--model.class_path", "lightning_modules.grpo.GRPOModule", "--model.sampling.seed=1")
    check("--ckpt_path=x", command="test")
    assert unknown("--return_predictions=x", command="test").startswith("return_predictions: unknown key")
    check("--return_predictions=true", command="predict")


def test_every_shipped_class_can_be_read() -> None:
    """The parameters that Python itself sees, for the classes that the presets name."""
    import importlib
    import inspect

    paths = set(re.findall(r"class_path: (\S+)", "".join(p.read_text() for p in [*LIGHTNING, *OVERLAYS])))
    read = 0
    for path in paths:
        module, _, name = path.rpartition(".")
        found = find_class(path)
        accepted = None if found is None else parameters(found)
        if accepted is not None:
            kind = getattr(importlib.import_module(module), name)
            expected = [] if kind.__init__ is object.__init__ else list(inspect.signature(kind.__init__).parameters)[1:]
            assert list(accepted) == expected, path
            read += 1
    assert read >= len(paths) * 0.7, f"{read} of {len(paths)}"


def test_nothing_heavy_is_imported_for_a_wrong_key() -> None:
    program = """
import sys
from avrt.cli import main
assert main(["fit", "--config", "cli_configs/grpo_tiny.yaml", "--model.loss.betta=1"]) == 2
heavy = {"torch", "lightning", "transformers", "numpy", "jsonargparse", "deepspeed"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "model.loss.betta: unknown key; did you mean 'beta'?" in done.stderr
