"""Mistakes that a config's text alone shows, before anything heavy is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from avrt.config.errors import UsageError
from avrt.config.scan import scan_arguments, scan_text


def scan(text: str) -> None:
    scan_text(text, "run.yaml")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: [1\n", "run.yaml: is not valid YAML: line 3: "),
        ("a: 1\n\tb: 2\n", "run.yaml: is not valid YAML: line 2: "),
        ("just text", "run.yaml: a config must be a mapping"),
        ("- 1\n- 2", "run.yaml: a config must be a mapping"),
        ("a: 1\nb: 2\na: 3", "run.yaml, line 3: a: is given twice (first in line 1); keep one of them"),
        ("m:\n  x: {a: 1, a: 2}", "run.yaml, line 2: m.x.a: is given twice"),
        ("x: 1\nconfig: base.yaml", "run.yaml, line 2: config: a config inside a config"),
        ("", "run.yaml: a config must be a mapping"),
        ("# only a comment", "run.yaml: a config must be a mapping"),
        ("trainer: &a\n  x: *a", "run.yaml: its anchors"),
        ("a: &a [1, *a]", "run.yaml: its anchors"),
        ("a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40)), "its anchors"),
        ("a: \x00", "run.yaml: is not valid YAML: unacceptable character #x0000"),
        ("a: 1\n---\nb: 2", "run.yaml: is not valid YAML: line 2: "),
        ("a: " + "[" * 100_000 + "]" * 100_000, "run.yaml: is nested in more than 50 levels"),
        ("a: " + "[" * 60 + "]" * 60, "run.yaml: is nested in more than 50 levels"),
        ("a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 300)), "run.yaml: is nested"),
        ("a:\n  b: " + "9" * 5000, "run.yaml, line 2: a.b: has more than 400 digits"),
    ],
)
def test_refused(text: str, line: str) -> None:
    with pytest.raises(UsageError) as error_info:
        scan(text)
    assert line in str(error_info.value)
    assert "\n" not in str(error_info.value)


@pytest.mark.parametrize(
    "text",
    [
        "model: {class_path: avrt.model.student.X, init_args: {config: here it is an argument}}",
        "a: &a {x: 1}\nb: {<<: *a, x: 2}\nc: *a",
        "when: 2026-01-01\nrate: 2e-6\nnone: null\nyes: true",
    ],
)
def test_accepted(text: str) -> None:
    scan(text)


def test_config_files_are_found_however_they_are_given(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("a: 1")
    bad.write_text("a: 1\na: 2")
    for words in (
        ["--config", bad],
        [f"--config={bad}"],
        ["-c", bad],
        [f"-c{bad}"],
        ["--config", good, "--config", bad],
    ):
        with pytest.raises(UsageError, match=r"bad\.yaml, line 2: a: "):
            scan_arguments([str(word) for word in words])
    scan_arguments(["--config", str(good), "--trainer.precision", "[not yaml: at all"])


def test_a_missing_file_is_named_with_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "grpo_tiny.yaml").write_text("a: 1")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for name, line in (
        ("grpo_tny.yaml", f"no such file; did you mean {tmp_path / 'grpo_tiny.yaml'}?"),
        ("nothing/x.yaml", f"there is no folder {tmp_path / 'nothing'}"),
        ("", "is a folder"),
        ("binary.yaml", "is not a YAML text file"),
    ):
        with pytest.raises(UsageError) as error_info:
            scan_arguments(["--config", str(tmp_path / name)])
        assert line in str(error_info.value)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--data", "[" * 3000 + "]" * 3000], "--data: is nested in more than 50 levels"),
        (["--model.beta=" + "{a: " * 60 + "1" + "}" * 60], "--model.beta: is nested in more than 50 levels"),
        (["--config", "{a: " * 60 + "1" + "}" * 60], "--config: is nested in more than 50 levels"),
        (["--seed_everything", "9" * 5000], "--seed_everything: has a number of more than 400 digits"),
    ],
)
def test_options_are_checked_too(words: list[str], line: str) -> None:
    with pytest.raises(UsageError) as error_info:
        scan_arguments(words)
    assert str(error_info.value) == line


def test_ordinary_options_pass() -> None:
    scan_arguments(["--data.batch_size", "2", "--trainer.callbacks+={class_path: A, init_args: {x: [1, 2]}}", "]]]"])
