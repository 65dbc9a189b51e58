"""The student's shapes: its configuration, and how many parameters each part has."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

from avrt.config.errors import UsageError
from avrt.files.json_text import decode_json

PUBLISHED = Path(__file__).resolve().parent / "published"
"""Configurations of the published students' thinkers, for planning without the hub."""

SIZES = ("3b", "7b")


@dataclass(frozen=True)
class Parameters:
    """Parameters by part, each tensor counted once.

    Attributes:
        language_model: text model and head; what full training trains and the reference copies.
        embeddings: the token embeddings among them (looked up, not multiplied).
        head: the head among them (0 when it is the embeddings' own matrix).
        vision, audio: the frozen encoders, with their projections to the language model.
    """

    language_model: int
    embeddings: int
    head: int
    vision: int
    audio: int

    @property
    def total(self) -> int:
        return self.language_model + self.vision + self.audio

    @property
    def layers(self) -> int:
        """Parameters of the transformer layers, which every token passes."""
        return self.language_model - self.embeddings - self.head


def load_config(path: str) -> tuple[Qwen2_5OmniThinkerConfig, str]:
    """The configuration of a student, and its source.

    Args:
        path: a folder with a saved student, the hub id of a published one, or a folder that does not exist yet whose
            name ends in a size (``exports/sft_7b``), which means the published student of that size.

    Raises:
        UsageError: the path is none of these.
    """
    file = Path(path) / "config.json"
    if file.is_file():
        return Qwen2_5OmniThinkerConfig(**_thinker_part(_read(file))), f"{file}"
    name = path.rsplit("/", 1)[-1]
    published = PUBLISHED / f"{name}.json"
    if published.is_file():
        return _published(published), f"the published shapes of {name}"
    size = name.lower().replace("-", "_").rsplit("_", 1)[-1]
    if size in SIZES:
        assumed = f"Qwen2.5-Omni-{size.upper()}"
        return _published(PUBLISHED / f"{assumed}.json"), f"the published shapes of {assumed} ({path} does not exist)"
    known = ", ".join(sorted(f"Qwen/{p.stem}" for p in PUBLISHED.glob("*.json")))
    raise UsageError(
        f"model.student.path: there is no folder {path!r} with a config.json, and it is not a known hub id "
        f"({known}); set --student to a folder or one of these"
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        content = decode_json(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{file}: is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{file}: is not the config.json of a model")
    return content


def _published(file: Path) -> Qwen2_5OmniThinkerConfig:
    return Qwen2_5OmniThinkerConfig(**json.loads(file.read_text(encoding="utf-8")))


def _thinker_part(config: dict[str, Any]) -> dict[str, Any]:
    return config.get("thinker_config", config)


def meta_thinker(config: Qwen2_5OmniThinkerConfig, dtype: torch.dtype | None = None) -> Any:
    """The thinker without storage. The config may be that of a loaded student, which names attentions of its own."""
    with torch.device("meta"):
        return Qwen2_5OmniThinkerForConditionalGeneration._from_config(
            copy.deepcopy(config), dtype=dtype, attn_implementation="sdpa"
        )


def count_parameters(config: Qwen2_5OmniThinkerConfig) -> Parameters:
    """Parameters of a student of this configuration."""
    thinker = meta_thinker(config)
    embeddings = thinker.model.language_model.embed_tokens.weight
    head = thinker.lm_head.weight

    def size(module: torch.nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    own_head = 0 if head is embeddings else head.numel()
    return Parameters(
        language_model=size(thinker.model.language_model) + own_head,
        embeddings=embeddings.numel(),
        head=own_head,
        vision=size(thinker.model.visual),
        audio=size(thinker.model.audio_tower),
    )
