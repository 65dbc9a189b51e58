"""An engine for tests that holds weights of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from avrt.model.encoding import Prompt
from avrt.model.student import Student
from avrt.rollout.builtin import TransformersRollout
from avrt.rollout.engine import EngineConfig, Response, SamplingConfig
from avrt.rollout.vllm.background import Background


@dataclass
class OwnWeights(EngineConfig):
    """Samples from a copy of the student, as an engine in a process of its own does.

    Attributes:
        forgets: keeps the first weights.
        missing: a tensor that it does not take over.
        fails_at: number of the window that it fails in, from 0 on.
        fails_on: the device that it fails on; None for all.
        update_fails_at, begin_fails_at: numbers of the calls that fail.
        seconds: that a window takes which is sampled ahead.
        ahead: it can sample while the policy is trained.
        calls: of its methods, in their order.
    """

    forgets: bool = False
    missing: str | None = None
    fails_at: int | None = None
    fails_on: int | None = None
    update_fails_at: int | None = None
    begin_fails_at: int | None = None
    seconds: float = 0.0
    ahead: bool = False
    calls: list[str] = field(default_factory=list)

    def start(self, student: Student, sampling: SamplingConfig) -> CopyEngine:
        self.calls.append("start")
        return (AheadCopyEngine if self.ahead else CopyEngine)(self, student, sampling)


class CopyEngine(TransformersRollout):
    def __init__(self, config: OwnWeights, student: Student, sampling: SamplingConfig) -> None:
        super().__init__(student.copy_language_model(), sampling, student.eos_token_ids, student.banned_tokens)
        self.settings, self.student, self.windows = config, student, 0

    def update_weights(self) -> None:
        self.settings.calls.append("update")
        if self.settings.calls.count("update") - 1 == self.settings.update_fails_at:
            raise ValueError("the weights did not arrive")
        if self.settings.forgets:
            return
        new = dict(self.student.language_model.text_model.named_parameters())
        for name, weight in self.model.text_model.named_parameters():
            if name != self.settings.missing:
                weight.data.copy_(new[name].data)
        self.model.head.weight.data.copy_(self.student.language_model.head.weight.data)

    def generate(self, *args: Any, **settings: Any) -> list[list[Response]]:
        number, self.windows = self.windows, self.windows + 1
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        if number == self.settings.fails_at and self.settings.fails_on in (None, rank):
            raise ValueError("the engine is gone")
        return super().generate(*args, **settings)

    def rest(self) -> None:
        self.settings.calls.append("rest")

    def close(self) -> None:
        self.settings.calls.append("close")


class AheadCopyEngine(CopyEngine):
    """Samples in a thread, with the weights that it has."""

    def begin(self, prompts: Sequence[Prompt], num_generations: int, seeds: Sequence[int]) -> Background[Any]:
        self.settings.calls.append("begin")
        if self.settings.calls.count("begin") - 1 == self.settings.begin_fails_at:
            raise ValueError("the engine takes no prompts")

        async def sample() -> list[list[Response]]:
            await asyncio.sleep(self.settings.seconds)
            with torch.no_grad():
                return self.generate(self.student.embed(prompts), num_generations, seeds)

        return Background(sample(), "sampling ahead")
