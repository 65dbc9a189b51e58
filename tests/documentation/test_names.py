"""Settings, modules and files that the pages name exist."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from jsonargparse import Namespace

from tests.documentation.pages import PAGES, ROOT, code_spans, links

PACKAGES = ("avrt", "lightning_modules", "datamodules", "benchmarks", "tests")
FOLDERS = (*PACKAGES, "cli_configs", "docs", "scripts")
SUFFIXES = (
    "py",
    "yaml",
    "json",
    "jsonl",
    "sh",
    "md",
    "txt",
    "csv",
    "parquet",
    "mp4",
    "wav",
    "ckpt",
    "html",
    "bin",
    "tar",
)

_KEY = re.compile(r"^(?:--)?([a-z_]+(?:\.[a-z_]+)+)(?:$|[ =:])")


def page_id(page: Path) -> str:
    return page.stem


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_linked_names_are_defined_in_the_linked_file(page: Path) -> None:
    for name, target in re.findall(r"\[`([\w.]+)`\]\(([^)#]+\.py)\)", page.read_text(encoding="utf-8")):
        source = (page.parent / target).read_text(encoding="utf-8")
        if not name.endswith(".py"):
            last = re.escape(name.rpartition(".")[2])
            assert re.search(rf"^\s*(class|def) {last}\b|^{last}\b.* = ", source, re.MULTILINE), f"{name} in {target}"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_files_of_the_project_exist(page: Path) -> None:
    for span in code_spans(page):
        first = span.split("/")[0]
        if first in FOLDERS and "/" in span and " " not in span:
            assert list(ROOT.glob(span.rstrip("/"))), f"{page.name} names {span}"
        elif first == "overlays" and span != "overlays/":
            assert (ROOT / "cli_configs" / span).exists(), f"{page.name} names {span}"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_modules_and_classes_exist(page: Path) -> None:
    for span in code_spans(page):
        match = re.match(r"(?:python -m )?((?:avrt|lightning_modules|datamodules|benchmarks)(?:\.\w+)+)$", span)
        if match:
            assert resolves(match[1]), f"{page.name} names {span}"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_settings_exist(page: Path) -> None:
    """A dotted name is a setting of a training, evaluation or trace config, whole or its end."""
    for span in code_spans(page):
        match = _KEY.match(span)
        name = match[1] if match else ""
        if not name or name.split(".")[0] in PACKAGES or name.rpartition(".")[2] in SUFFIXES:
            continue
        known = settings()
        assert any(key == name or key.endswith(f".{name}") for key in known), f"{page.name} names {span}"


def resolves(path: str) -> bool:
    """Whether a dotted path names a module, or something in one."""
    parts = path.split(".")
    for split in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:split]))
        except ModuleNotFoundError:
            continue
        for name in parts[split:]:
            if not hasattr(found, name):
                return False
            found = getattr(found, name)
        return True
    return False


TEACHERS = ("vision", "audio", "speech", "student")
"""Names of teachers in the shipped configs."""


@cache
def settings() -> frozenset[str]:
    """Full names of all settings, written with ``init_args`` and without it."""
    from avrt.config.class_paths import ALLOWED_PREFIXES, enforce
    from avrt.evaluation.server_config import ServerRunConfig
    from avrt.judging.config import JudgeConfig
    from avrt.servers.presets import PRESETS
    from avrt.traces.config import TeacherConfig, TracesConfig
    from lightning_modules.cli import read_settings
    from lightning_modules.strategy import AVRTDeepSpeedStrategy

    enforce(ALLOWED_PREFIXES)
    found: set[str] = set(fields_of(JudgeConfig))
    for command, files in (
        ("fit", ("sft_7b.yaml",)),
        ("fit", ("grpo_7b.yaml", "overlays/lora.yaml")),
        ("test", ("eval.yaml",)),
    ):
        words = [word for file in files for word in ("--config", str(ROOT / "cli_configs" / file))]
        found |= set(names_in(read_settings(command, words)))
    found |= {f"trainer.strategy.{name}" for name in inspect.signature(AVRTDeepSpeedStrategy).parameters}
    found |= set(fields_of(TracesConfig)) | set(fields_of(ServerRunConfig))
    found |= {f"teachers.{teacher}.{name}" for teacher in TEACHERS for name in fields_of(TeacherConfig)}
    found |= {f"teachers.vision.sampling.{name}" for preset in PRESETS.values() for name in preset.sampling}
    return frozenset(found | {name.replace(".init_args", "") for name in found})


def names_in(value: Any, name: str = "") -> Iterator[str]:
    if name:
        yield name
    if isinstance(value, Namespace | dict):
        items = vars(value).items() if isinstance(value, Namespace) else value.items()
        for key, inner in items:
            yield from names_in(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for inner in value:
            yield from names_in(inner, name)


def fields_of(kind: Any, name: str = "") -> Iterator[str]:
    """Dotted names of a data class's fields, those of the data classes in it included."""
    hints = get_type_hints(kind)
    for field in fields(kind):
        path = f"{name}.{field.name}" if name else field.name
        yield path
        for inner in (hints[field.name], *get_args(hints[field.name])):
            if is_dataclass(inner):
                yield from fields_of(inner, path)
