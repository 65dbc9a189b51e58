"""From a checkpoint to a folder that transformers and vLLM load, in the published model's own format.

A checkpoint holds the trained weights only. They are loaded into the student that the run started from, adapters are
merged, and everything is written under the hub's names (``thinker.…``) with processor, chat template, generation
settings and a model card.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from avrt import __version__
from avrt.config.scan import scan_file
from avrt.families.family import StudentFamily
from avrt.files.folder_lock import FolderLock
from avrt.model.checkpoints import (
    DEEPSPEED_TAG,
    DEEPSPEED_WEIGHTS,
    DEEPSPEED_WEIGHTS_SHARD,
    check_no_instantiator,
    load_without_code,
    resolve,
)
from avrt.model.lora import LoRAConfig, add_lora, merge_lora
from avrt.model.student import Student, StudentConfig
from avrt.model.student_folder import write_student_folder
from avrt.model.trained_weights import check_saved_weights, has_frozen_weights
from avrt.text.prompts import PromptTemplate

PREFIX = "student."
"""Prefix of the student's weights in a training module."""


@dataclass(frozen=True)
class Trained:
    """The content of a checkpoint that concerns the student.

    Attributes:
        weights: trained weights, by name in the student.
        state: the training module's own entries: fingerprint of the frozen weights, metrics, counts.
        step: optimizer steps taken.
    """

    weights: dict[str, Tensor]
    state: Mapping[str, Any]
    step: int


def export(
    run_or_checkpoint: str | Path,
    out: str | Path,
    config: str | Path | None = None,
    student_path: str | None = None,
    name: str | None = None,
) -> Path:
    """Write the student of a checkpoint to the folder `out`, atomically.

    Args:
        run_or_checkpoint: a run's folder (for its last complete checkpoint) or one checkpoint.
        config: the run's settings; None for the ``config.yaml`` that the run has saved.
        student_path: the folder of the student that the run started from, if it has moved.
        name: the student's name on its model card; None for the name of `out`.

    Returns:
        The checkpoint that was exported.

    Raises:
        ValueError: there is no complete checkpoint, its settings do not fit, its weights are not finite, `out` is not
            empty, or another process exports to it.
    """
    out = Path(out).resolve()
    # The lock is beside the folder, which appears as a whole.
    with FolderLock(out, "export", beside=True):
        return _export(run_or_checkpoint, out, config, student_path, name or out.name)


def _export(
    run_or_checkpoint: str | Path, out: Path, config: str | Path | None, student_path: str | None, name: str
) -> Path:
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"--out {out}: is not empty; choose another folder")
    checkpoint = resolve(Path(run_or_checkpoint))
    settings_file = Path(config) if config else _find_settings(checkpoint)
    settings = _read_settings(settings_file)
    trained = read_trained(checkpoint)
    arguments = settings["model"]["init_args"]
    lora = LoRAConfig(**_known(LoRAConfig, arguments["lora"])) if arguments.get("lora") else None
    student = Student.load(_student_config(arguments["student"], student_path))
    restore(student, trained, lora)

    card = model_card(name, student.family, settings, trained)

    def write(folder: Path) -> None:
        student.save(folder)
        (folder / "README.md").write_text(card, encoding="utf-8")

    write_student_folder(out, write, student.config.path)
    return checkpoint


def read_trained(checkpoint: Path) -> Trained:
    """The trained weights of a complete checkpoint: a plain file or a folder of DeepSpeed.

    Raises:
        ValueError: it holds code, or was not written by a training run of this project.
    """
    if checkpoint.is_file():
        content = load_without_code(checkpoint, mmap=True)
        weights = content.get("state_dict") if isinstance(content, dict) else None
    elif (whole := checkpoint / DEEPSPEED_TAG / DEEPSPEED_WEIGHTS).is_file():
        content = load_without_code(whole, mmap=True)
        weights = content.get("module")
    else:
        content = load_without_code(checkpoint / DEEPSPEED_TAG / DEEPSPEED_WEIGHTS_SHARD)
        weights = _gather_shards(checkpoint)
    check_no_instantiator(content, checkpoint)
    noted = content.get("avrt") if isinstance(content, dict) else None
    if (
        weights is None
        or not isinstance(noted, dict)
        or not {"frozen", "metrics"} <= noted.keys()
        or "global_step" not in content
    ):
        raise ValueError(f"checkpoint {checkpoint} was not written by this project's training modules")
    own = {name.removeprefix(PREFIX): value for name, value in weights.items() if name.startswith(PREFIX)}
    return Trained(own, noted, int(content["global_step"]))


def _gather_shards(checkpoint: Path) -> dict[str, Tensor]:
    """Gather the weights that ZeRO-3 has split over devices (float32 masters)."""
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    for file in (checkpoint / DEEPSPEED_TAG).glob("*.pt"):
        load_without_code(file, mmap=True)  # DeepSpeed's own reader would run code in it
    return get_fp32_state_dict_from_zero_checkpoint(str(checkpoint), tag=DEEPSPEED_TAG)


def restore(student: Student, trained: Trained, lora: LoRAConfig | None) -> None:
    """Load trained weights into the student that the run started from, and merge adapters.

    Raises:
        ValueError: they belong to another student.
    """
    if lora is not None:
        add_lora(student, lora)
    check_saved_weights(trained.weights, student)
    if not has_frozen_weights(trained.state["frozen"], student):
        raise ValueError(
            f"the checkpoint was trained with other frozen weights than those of {student.config.path!r}; give the "
            "folder of the student that the run started from with --student"
        )
    student.load_state_dict(trained.weights, strict=False)
    if lora is not None:
        merge_lora(student, lora)


def model_card(name: str, family: StudentFamily, settings: dict[str, Any], trained: Trained) -> str:
    """Markdown about the exported student: origin, training, measurements, and how to load it."""
    student = settings["model"]["init_args"]["student"]
    task = str(settings["model"]["class_path"]).rsplit(".", 1)[-1].removesuffix("Module")
    metrics = {key: value for key, value in sorted(trained.state["metrics"].items()) if "seconds" not in key}
    rows = "\n".join(f"| {key} | {value:.6g} |" for key, value in metrics.items()) or "| none logged | |"
    differs = f" Its replies may differ: {family.vllm_differs}." if family.vllm_differs else ""
    front: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "any-to-any"}
    if str(student["path"]).count("/") == 1 and not Path(student["path"]).exists():
        front["base_model"] = student["path"]  # a hub id; a local folder would mean nothing to others
    front["tags"] = ["audio-visual", "reasoning", task.lower()]
    return f"""---
{yaml.safe_dump(front, sort_keys=False)}---
# {name}

The thinker of a {family.title} model after {task}, {trained.step} optimizer steps from
`{student["path"]}`, trained with avrt {__version__}. It answers questions about clips in text; there is no talker.

## Use

    from transformers import AutoProcessor, {family.thinker_class.__name__}

    model = {family.thinker_class.__name__}.from_pretrained("{name}", dtype="auto")
    processor = AutoProcessor.from_pretrained("{name}")

Or serve it: `vllm serve {name}`.{differs}

## Measured during training

The last values that the run had logged when the checkpoint was written.

| metric | value |
|---|---|
{rows}

## Configuration of the run

```yaml
{yaml.safe_dump(settings, sort_keys=False)}```
"""


def _find_settings(checkpoint: Path) -> Path:
    for folder in (checkpoint.parent, checkpoint.parent.parent):
        if (folder / "config.yaml").is_file():
            return folder / "config.yaml"
    raise ValueError(f"{checkpoint}: the run's config.yaml is neither beside it nor above it; give it with --config")


def _read_settings(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ValueError(f"--config {file}: no such file")
    scan_file(file)
    settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    try:
        Path(settings["model"]["init_args"]["student"]["path"])
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{file}: has no model.student.path, so it is not the config of a training run") from error
    return settings


def _student_config(settings: dict[str, Any], path: str | None) -> StudentConfig:
    values = _known(StudentConfig, settings)
    if values.get("template") is not None:
        values["template"] = PromptTemplate(**_known(PromptTemplate, values["template"]))
    values["gradient_checkpointing"] = False
    return StudentConfig(**values | ({"path": path, "revision": None} if path else {}))


def _known(kind: Any, settings: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(settings, dict):
        raise ValueError(f"the run's config has {settings!r} in place of the settings of {kind.__name__}")
    names = {field.name for field in fields(kind)}
    unknown = sorted(set(settings) - names)
    if unknown:
        raise ValueError(f"the run's config has the unknown setting {unknown[0]!r} for {kind.__name__}")
    return dict(settings)
