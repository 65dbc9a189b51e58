"""The student's shapes: its configuration, and how many parameters each part has."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from avrt.config.errors import UsageError
from avrt.families.registry import FAMILIES, family_of_config, family_of_content
from avrt.files.json_text import decode_json

PUBLISHED = Path(__file__).resolve().parent / "published"
"""Configurations of the published students' thinkers, for planning without the hub."""


@dataclass(frozen=True)
class Parameters:
    """Parameters by part, each tensor counted once.

    Attributes:
        language_model: text model and head; what full training trains and the reference copies.
        embeddings: the token embeddings among them (looked up, not multiplied).
        head: the head among them (0 when it is the embeddings' own matrix).
        vision, audio: the frozen encoders, with their projections to the language model.
        inactive_experts: of the language model, those that a token does not pass.
    """

    language_model: int
    embeddings: int
    head: int
    vision: int
    audio: int
    inactive_experts: int = 0

    @property
    def total(self) -> int:
        return self.language_model + self.vision + self.audio

    @property
    def layers(self) -> int:
        """Parameters of the transformer layers."""
        return self.language_model - self.embeddings - self.head

    @property
    def active_layers(self) -> int:
        """Those of them that one token passes."""
        return self.layers - self.inactive_experts

    @property
    def active(self) -> int:
        """Parameters of the language model that one token passes; an embedding is looked up."""
        return self.language_model - self.inactive_experts


def load_config(path: str) -> tuple[Any, str]:
    """The configuration of a student, and its source.

    Args:
        path: a folder with a saved student, the hub id of a published one, or a folder that does not exist yet whose
            name says which one it comes from (``exports/sft_7b``), see `StudentFamily.sizes`.

    Raises:
        UsageError: the path is none of these.
    """
    file = Path(path) / "config.json"
    if file.is_file():
        return _thinker_config(_read(file), f"{file}"), f"{file}"
    for family in FAMILIES:
        if path in family.published:
            return _published(family.published[path]), f"the published shapes of {path.rpartition('/')[2]}"
    name = path.rsplit("/", 1)[-1].lower().replace("-", "_")
    for family in FAMILIES:
        for pattern, hub_id in family.sizes.items():
            if re.search(pattern, name):
                source = f"the published shapes of {hub_id.rpartition('/')[2]} ({path} does not exist)"
                return _published(family.published[hub_id]), source
    known = ", ".join(hub_id for family in FAMILIES for hub_id in family.published)
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


def _published(name: str) -> Any:
    file = PUBLISHED / f"{name}.json"
    return _thinker_config(json.loads(file.read_text(encoding="utf-8")), f"{file}")


def _thinker_config(content: dict[str, Any], where: str) -> Any:
    """The thinker's configuration from that of a whole model or of the thinker alone."""
    try:
        family = family_of_content(content, where)
    except ValueError as error:
        raise UsageError(f"{error}") from error
    return family.config_class(**content.get("thinker_config", content))


def meta_thinker(config: Any, dtype: torch.dtype | None = None) -> Any:
    """The thinker without storage. The config may be that of a loaded student, which names attentions of its own."""
    with torch.device("meta"):
        return family_of_config(config).thinker_class._from_config(
            copy.deepcopy(config), dtype=dtype, attn_implementation="sdpa"
        )


def count_parameters(config: Any) -> Parameters:
    """Parameters of a student of this configuration."""
    thinker = meta_thinker(config)
    embeddings = thinker.model.language_model.embed_tokens.weight
    head = thinker.lm_head.weight

    def size(module: torch.nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    shape = family_of_config(config).language_shape(config)
    own_head = 0 if head is embeddings else head.numel()
    return Parameters(
        language_model=size(thinker.model.language_model) + own_head,
        embeddings=embeddings.numel(),
        head=own_head,
        vision=size(thinker.model.visual),
        audio=size(thinker.model.audio_tower),
        inactive_experts=shape.expert_parameters - shape.active_expert_parameters,
    )
