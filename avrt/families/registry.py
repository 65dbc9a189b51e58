"""The family of a model: by the type in its configuration, or by its processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from avrt.families import qwen2_5_omni, qwen3_omni_moe
from avrt.families.family import StudentFamily
from avrt.files.json_text import decode_json

FAMILIES: tuple[StudentFamily, ...] = (qwen2_5_omni.FAMILY, qwen3_omni_moe.FAMILY)
"""All families, the first one being that of the tiny presets and the demo."""


def family_of_type(model_type: Any, where: str) -> StudentFamily:
    """The family of a `model_type`, of a whole model or of a thinker alone.

    Args:
        where: named in the error.

    Raises:
        ValueError: no family has it.
    """
    for family in FAMILIES:
        if model_type in (family.model_type, family.thinker_type):
            return family
    known = ", ".join(f"{family.model_type} ({family.title})" for family in FAMILIES)
    raise ValueError(
        f"{where}: model_type is {model_type!r}, which no family of students has (known: {known}); docs/students.md "
        "says how to add one"
    )


def family_of_content(content: Any, where: str) -> StudentFamily:
    """The family of the content of a ``config.json``: by its type, or by its classes where it has none.

    Raises:
        ValueError: it is of no family.
    """
    if not isinstance(content, dict):
        raise ValueError(f"{where}: is not a JSON object")
    thinker = content.get("thinker_config")
    model_type = content.get("model_type") or (thinker.get("model_type") if isinstance(thinker, dict) else None)
    if model_type is None:
        classes = content.get("architectures") or []
        for family in FAMILIES:
            if any(str(name).startswith(family.class_prefix) for name in classes):
                return family
    return family_of_type(model_type, where)


def family_of_config(config: Any) -> StudentFamily:
    """The family of a thinker's configuration."""
    return family_of_type(config.model_type, "the thinker's configuration")


def family_of_processor(processor: Any) -> StudentFamily:
    """The family of a processor.

    Raises:
        ValueError: it is of no family.
    """
    for family in FAMILIES:
        if isinstance(processor, family.processor_class):
            return family
    raise ValueError(f"{type(processor).__name__} is the processor of no family of students (docs/students.md)")


def family_of_path(path: str, revision: str | None = None) -> StudentFamily:
    """The family of a saved student, read from its ``config.json``.

    Args:
        path: folder or hub id.
        revision: commit of the hub repository, or None for its newest.

    Raises:
        ValueError: its type is unknown.
        OSError: the model does not exist.
    """
    content: Any
    if Path(path).is_dir():
        file = Path(path) / "config.json"
        if not file.is_file():
            raise ValueError(f"{path} has no config.json")
        content = decode_json(file.read_text(encoding="utf-8"))
    else:
        content, _ = PreTrainedConfig.get_config_dict(path, revision=revision or "main")
    return family_of_content(content, f"{path}: config.json")
