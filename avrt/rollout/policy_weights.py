"""The policy's weights as another engine takes them over: under published names, adapters merged, all accounted for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open
from torch import Tensor, nn

from avrt.families.family import StudentFamily
from avrt.model.lora import adapter_of
from avrt.model.published_format import is_tied
from avrt.model.student import Student, StudentConfig
from avrt.model.weight_files import weight_files

FROZEN = ("thinker.visual.", "thinker.audio_tower.")
"""Published names of the encoders, which no run changes."""

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integer types by their size in bytes."""


@dataclass(frozen=True)
class PolicyWeight:
    """A weight of the language model as it is transferred.

    Attributes:
        name: the published one.
        shape: its shape.
        tensor: computes it, on the policy's device: under LoRA the sum of the frozen matrix and its adapter.
    """

    name: str
    shape: tuple[int, ...]
    tensor: Callable[[], Tensor]


def policy_weights(student: Student, expected: Collection[str]) -> list[PolicyWeight]:
    """All weights of the language model, layer by layer; only one needs memory of its own at a time.

    Args:
        expected: the names that the engine has, see `published_shapes`: some folders repeat a tied head.
    """
    weights = []
    family = student.family
    for module_name, module in student.language_model.text_model.named_modules():
        if _is_part_of_adapter(module_name):
            continue
        prefix = f"model.language_model.{module_name}." if module_name else "model.language_model."
        for name, owner in _own_weights(module):
            weights += _Source(family, prefix + name, owner, name, module).weights()
    head = student.language_model.head
    if not is_tied(student.thinker) or family.published_name("lm_head.weight") in expected:
        weights += _Source(family, "lm_head.weight", head, "weight", head).weights()
    return weights


def _own_weights(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Names of the parameters that a module holds itself, and where they are: an adapted matrix has them one below."""
    owner = module.get_base_layer() if hasattr(module, "lora_A") else module  # type: ignore[operator]
    for name, _ in owner.named_parameters(recurse=False):
        yield name, owner


@dataclass
class _Source:
    """A parameter of the policy, which is published whole or in parts.

    Attributes:
        name: of the parameter in the thinker.
        owner, attribute: where it is.
        module: `owner`, or the adapters around it.
    """

    family: StudentFamily
    name: str
    owner: nn.Module
    attribute: str
    module: nn.Module
    _parts: dict[str, Tensor] = field(default_factory=dict)

    def weights(self) -> list[PolicyWeight]:
        shape = getattr(self.owner, self.attribute).shape
        parts = self.family.published_weights(self.name, torch.empty(shape, device="meta"))
        return [PolicyWeight(name, tuple(part.shape), partial(self._take, name)) for name, part in parts]

    @torch.no_grad()
    def _take(self, name: str) -> Tensor:
        """A part; all parts are computed once and forgotten as they are taken."""
        if name not in self._parts:
            weight: Tensor = getattr(self.owner, self.attribute).detach()
            adapter = adapter_of(self.module, self.attribute)
            if adapter is not None:
                change = sum(adapter.get_delta_weight(active) for active in adapter.active_adapters)
                weight = (weight + change).to(weight.dtype)
            self._parts = dict(self.family.published_weights(self.name, weight))
        return self._parts.pop(name)


def _is_part_of_adapter(module_name: str) -> bool:
    return any(part == "base_layer" or part.startswith("lora_") for part in module_name.split("."))


def published_shapes(config: StudentConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the language model's weights in the folder that an engine loads.

    Raises:
        ValueError: the folder is not in the published layout.
    """
    folder = Path(config.path)
    if not folder.is_dir():
        folder = Path(snapshot_download(config.path, revision=config.revision, local_files_only=True))
    shapes: dict[str, tuple[int, ...]] = {}
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (not a mapping)
                if name.startswith("thinker.") and not name.startswith(FROZEN):
                    shapes[name] = tuple(opened.get_slice(name).get_shape())
    if not shapes:
        raise ValueError(
            f"model.student.path: {config.path!r} has no weights with published names (thinker.…), which the rollout "
            "engine reads; write it again with python -m avrt export"
        )
    return shapes


def check_accounted(weights: Iterable[PolicyWeight], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Check that every expected weight is there once, in its shape, before anything is transferred.

    Args:
        weights: what will be transferred.
        expected: what the engine has, see `published_shapes`.

    Raises:
        ValueError: names the first weight that is missing, unknown, doubled, or of another shape.
    """
    left = dict(expected)
    for weight in weights:
        shape = left.pop(weight.name, None)
        if shape is None:
            what = "is there twice" if weight.name in expected else "is not one that the engine has"
            raise ValueError(
                f"transfer of weights to the rollout engine: {weight.name} {what}; nothing was transferred"
            )
        if shape != weight.shape:
            raise ValueError(
                f"transfer of weights to the rollout engine: {weight.name} has shape {weight.shape}, and the engine "
                f"expects {shape}; model.student.path must name the folder that the run started from"
            )
    if left:
        raise ValueError(
            f"transfer of weights to the rollout engine: {min(left)} is missing ({len(left)} of {len(expected)} "
            "weights are); nothing was sent"
        )


def bit_sum(weight: Tensor) -> int:
    """The sum of a tensor's elements read as integers: the same however it is split, changed by any changed element.

    Two changes that cancel each other exactly escape it.
    """
    flat = weight.detach().reshape(-1).contiguous()
    return int(flat.view(_INTEGERS[weight.element_size()]).sum(dtype=torch.int64))
