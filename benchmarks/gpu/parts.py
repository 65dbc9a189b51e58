"""The parts in the order in which they run: the cheapest and most important first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Part:
    """One measurement, in a process of its own.

    Attributes:
        name: its key in ``gpu.json``.
        module: has ``run(shape, device, **arguments)``, which yields rows (see `benchmarks.gpu.child`).
        arguments: further arguments of ``run``.
        limit: the part is killed after so many seconds.
        least: with fewer seconds left the part is not started.
    """

    name: str
    module: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    limit: float = 90.0
    least: float = 20.0

    @property
    def family(self) -> str:
        """Its name without the variant."""
        return self.name.split("_")[0]


PARTS = (
    Part("hardware", "benchmarks.gpu.hardware", limit=60),
    Part("exactness_float32", "benchmarks.gpu.exactness", {"dtype": "float32"}),
    Part("exactness_bfloat16", "benchmarks.gpu.exactness", {"dtype": "bfloat16"}),
    # FlexAttention compiles its kernels; apart, so that a failure of the compiler costs no other row.
    Part("flex_bfloat16", "benchmarks.gpu.exactness", {"dtype": "bfloat16", "kernel": "flex"}),
    Part("decoding_3b", "benchmarks.gpu.decoding", {"size": "3b"}),
    Part("phases_3b", "benchmarks.gpu.phases", {"size": "3b"}, limit=100),
    Part("decoding_7b", "benchmarks.gpu.decoding", {"size": "7b"}),
    Part("phases_7b", "benchmarks.gpu.phases", {"size": "7b"}, limit=120),
    Part("encoders", "benchmarks.gpu.encoders", limit=60),
    Part("memory_3b", "benchmarks.gpu.memory", {"size": "3b"}, limit=60),
    Part("step_3b_zero2", "benchmarks.gpu.step", {"size": "3b", "strategy": "zero2"}),
    Part("trl_1536", "benchmarks.gpu.against_trl", {"which": 0}, limit=150),
    Part("memory_7b", "benchmarks.gpu.memory", {"size": "7b"}, limit=60),
    Part("trl_3072", "benchmarks.gpu.against_trl", {"which": 1}, limit=150),
    Part("step_3b_plain", "benchmarks.gpu.step", {"size": "3b", "strategy": "plain"}),
    Part("step_7b_zero2", "benchmarks.gpu.step", {"size": "7b", "strategy": "zero2"}),
    Part("step_7b_plain", "benchmarks.gpu.step", {"size": "7b", "strategy": "plain"}),
    # DeepSpeed compiles its optimizer for host memory when it is first used, which can take minutes.
    Part("step_3b_offload", "benchmarks.gpu.step", {"size": "3b", "strategy": "offload"}, limit=180, least=60),
    Part("step_7b_offload", "benchmarks.gpu.step", {"size": "7b", "strategy": "offload"}, limit=180),
    Part("flex_float32", "benchmarks.gpu.exactness", {"dtype": "float32", "kernel": "flex"}),
)

DEVICE = Part("device", "benchmarks.gpu.device", limit=60, least=0)
"""Always runs first; finds out whether there is a GPU."""


def select(names: Sequence[str] | None, parts: Sequence[Part] = PARTS) -> list[Part]:
    """The parts of these names or families (``phases`` for ``phases_3b`` and ``phases_7b``), in their own order.

    Raises:
        ValueError: a name is unknown.
    """
    if names is None:
        return list(parts)
    known = {part.name for part in parts} | {part.family for part in parts}
    for name in names:
        if name not in known:
            raise ValueError(f"--parts: there is no part {name!r}; choose from {', '.join(sorted(known))}")
    return [part for part in parts if part.name in names or part.family in names]
