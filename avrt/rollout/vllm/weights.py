"""The student's weights in a vLLM model: putting them there, and proving that they are there."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from avrt.rollout.policy_weights import bit_sum

FUSED = {"q_proj": "qkv_proj", "k_proj": "qkv_proj", "v_proj": "qkv_proj"} | dict.fromkeys(
    ("gate_proj", "up_proj"), "gate_up_proj"
)
"""Matrices that vLLM keeps in one."""

LANGUAGE_MODEL = "language_model."
TIED = "language_model.lm_head.weight"


def vllm_name(published: str) -> str:
    """The parameter of vLLM's thinker that holds a published weight, or a part of it."""
    name = LANGUAGE_MODEL + published.removeprefix("thinker.")
    return ".".join(FUSED.get(part, part) for part in name.split("."))


class Totals:
    """Sums of what is transferred, by vLLM's names, to compare with what has arrived.

    Args:
        dtype: the type that vLLM keeps the weights in.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.expected: dict[str, int] = {}

    def noted(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Weights as they pass by, in vLLM's type."""
        for published, weight in weights:
            converted = weight.to(self.dtype)
            name = vllm_name(published)
            self.expected[name] = _wrapped(self.expected.get(name, 0) + bit_sum(converted))
            yield published, converted

    def check(self, arrived: Mapping[str, int | None]) -> None:
        """Compare with `arrived_totals`.

        Raises:
            ValueError: a weight in the engine is not what was transferred.
        """
        unknown = sorted(self.expected.keys() - arrived.keys() - {TIED})  # a tied head has no parameter of its own
        wrong = [name for name, total in arrived.items() if total is not None and total != self.expected.get(name)]
        if unknown or wrong:
            name = (unknown or sorted(wrong))[0]
            raise ValueError(
                f"vLLM holds other weights than the policy after the transfer: {name} and "
                f"{len(unknown) + len(wrong) - 1} more; the step is not taken. This is a fault of the transfer: report "
                "it with the version of vLLM, or use the built-in engine (model.rollout: builtin)"
            )


def arrived_totals(model: nn.Module) -> dict[str, int | None]:
    """`bit_sum` of each parameter of vLLM's language model; None where vLLM has repacked it (on CPUs)."""
    return {
        name: _wrapped(bit_sum(parameter)) if parameter.numel() else None
        for name, parameter in model.named_parameters()
        if name.startswith(LANGUAGE_MODEL)
    }


def _wrapped(total: int) -> int:
    """As a signed integer of 64 bits, as torch adds up."""
    return (total + (1 << 63)) % (1 << 64) - (1 << 63)


def reload_weights(llm: Any, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Load published weights into the model of a `vllm.LLM` in this process, and drop what was computed with others."""
    with without_warnings():
        llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights)})
    # vLLM forgets the encoders' outputs with the weights, and its scheduler must know.
    llm.llm_engine.reset_encoder_cache()
    if not llm.reset_prefix_cache():
        raise ValueError("vLLM could not drop the keys and values of earlier weights; the step is not taken")


@contextmanager
def without_warnings() -> Iterator[None]:
    """vLLM warns of each layer that a transfer leaves as it is: all of the frozen encoders."""
    log = logging.getLogger("vllm.model_executor.model_loader.reload")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)
