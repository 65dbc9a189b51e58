"""LoRA adapters on the language model, through peft: for one GPU, or for many variants of one student.

The adapted matrices stay frozen, so gradients, optimizer state and checkpoints shrink to the adapters, and GRPO's
reference policy is the same model with its adapters off, without a second copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from avrt.families.family import StudentFamily
from avrt.model.student import Student

LANGUAGE_MODEL_MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass
class LoRAConfig:
    """Adapters ``W x + (alpha / rank) B A x``, without dropout: sampling and scoring must use the same function.

    Attributes:
        rank: rows of A.
        alpha: scale of the adapter's output.
        target_modules: matrices of the language model that get adapters.
    """

    rank: int = 64
    alpha: int = 128
    target_modules: tuple[str, ...] = LANGUAGE_MODEL_MATRICES

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be positive, got {self.rank}")
        unknown = set(self.target_modules) - set(LANGUAGE_MODEL_MATRICES)
        if unknown or not self.target_modules:
            raise ValueError(
                f"target_modules must name some of {', '.join(LANGUAGE_MODEL_MATRICES)}; "
                f"got {', '.join(self.target_modules) or 'none'}"
            )


def add_lora(student: Student, config: LoRAConfig) -> None:
    """Freeze the student and add adapters to its language model; at first they change nothing.

    Raises:
        ValueError: peft is not installed.
    """
    student.requires_grad_(False)
    inject(student.thinker.model.language_model, config, student.family)


def merge_lora(student: Student, config: LoRAConfig) -> None:
    """Merge the adapters into the matrices and remove them."""
    text_model = student.thinker.model.language_model
    layers = [(name, module) for name, module in text_model.named_modules() if hasattr(module, "lora_A")]
    for name, layer in layers:
        layer.merge()
        parent, _, child = name.rpartition(".")
        if child != "base_layer":  # of one that adapts another parameter of the same module
            setattr(text_model.get_submodule(parent), child, layer.get_base_layer())


def adapter_of(module: Any, parameter: str) -> Any | None:
    """The adapter of a module's own parameter, or None.

    Args:
        module: the outermost of the module and its adapters.
        parameter: such as ``weight``.
    """
    while hasattr(module, "lora_A"):
        if getattr(module, "parameter_name", "weight") == parameter:
            return module
        module = module.base_layer
    return None


@contextmanager
def adapters_off(text_model: nn.Module) -> Iterator[None]:
    """Inside, the language model runs without its adapters."""
    layers: list[Any] = [module for module in text_model.modules() if hasattr(module, "lora_A")]
    trained = [p for p in text_model.parameters() if p.requires_grad]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for parameter in trained:  # peft freezes disabled adapters
            parameter.requires_grad_(True)


def inject(text_model: nn.Module, config: LoRAConfig, family: StudentFamily) -> None:
    """Add adapters to a text model's matrices; its other weights are frozen.

    Raises:
        ValueError: peft is not installed, or the family keeps a matrix together with one that is not named.
    """
    modules, parameters = family.lora_targets(config.target_modules, text_model.config)
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ValueError("lora needs peft: pip install 'avrt[lora]'") from error
    adapters = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        target_modules=modules,
        target_parameters=parameters or None,
        lora_dropout=0.0,
    )
    inject_adapter_in_model(adapters, text_model)
