"""The interface of rollout engines: sampling settings in, responses with token ids and log-probabilities out.

Shape letter: C response tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor

from avrt.config.numbers import NonNegativeInt, PositiveFloat, PositiveInt
from avrt.families.family import StudentFamily
from avrt.model.encoding import Prompt
from avrt.model.student import Student
from avrt.model.token_logprobs import EmbeddedPrompt
from avrt.sample import Completion, Sample

Decoding = Literal["auto", "plain", "static", "graphs"]
"""How the built-in engine decodes, see `SamplingConfig`."""


@dataclass(frozen=True)
class SamplingConfig:
    """Settings of sampling.

    Attributes:
        max_completion_length: token limit of a response.
        temperature: divides the logits; log-probabilities are computed at the same temperature. Configs give a number
            above 0; validation and evaluation use 0, which takes the most likely token.
        kv_cache_tokens: bound on the tokens whose keys and values are held at once (prompts once, responses in full).
            A window that needs more is rolled out in parts of whole prompts, one after another; a prompt that needs
            more by itself is rolled out alone.
        seed: start of all random streams, see `avrt.rollout.window_rollout.stream_seed`.
        decoding: how tokens are computed one after another; for the same seed the same tokens, up to rounding.
            ``graphs``: as CUDA graphs, one launch a token instead of one per kernel (not run on a GPU yet).
            ``static``: the same computation without graphs, on any device. ``plain``: caches grow token by token and
            ended responses leave the batch at once. ``auto``: ``graphs`` on CUDA, ``plain`` elsewhere. A step that
            cannot be captured ends the run and names this setting.
    """

    max_completion_length: PositiveInt = 1024
    temperature: PositiveFloat = 1.0
    kv_cache_tokens: PositiveInt = 262_144
    seed: NonNegativeInt = 0
    decoding: Decoding = "auto"


DEFAULT_SAMPLING = SamplingConfig()


@dataclass(frozen=True)
class Response:
    """One sampled response.

    Attributes:
        token_ids: int64 ``[C]`` on the CPU, including the end-of-turn token if there is one.
        logprobs: float32 ``[C]`` on the CPU, at the sampling temperature (at 1 when greedy); nan where the engine has
            none.
        finished: the model ended its turn (False: the token limit cut the response).
        staleness: optimizer steps between the weights that sampled it and those that are first trained with it.
    """

    token_ids: Tensor
    logprobs: Tensor
    finished: bool
    staleness: int = 0


class RolloutEngine(Protocol):
    """Samples responses with the policy's weights, such as `avrt.rollout.builtin.TransformersRollout`."""

    def generate(
        self, prompts: Sequence[EmbeddedPrompt], num_generations: int, seeds: Sequence[int]
    ) -> list[list[Response]]:
        """`num_generations` responses for every prompt, in order; prompt i draws from random stream ``seeds[i]``."""
        ...


class PendingResponses(Protocol):
    """Responses that are being sampled."""

    def result(self) -> list[list[Response]]:
        """Wait for them; as often as it is called.

        Raises:
            ValueError: they could not be sampled.
        """
        ...

    def ready(self, seconds: float) -> bool:
        """Wait at most so long; whether `result` has an outcome."""
        ...

    def cancel(self) -> None:
        """Stop sampling them, and wait until that is done."""
        ...


class SeparateEngine(RolloutEngine, Protocol):
    """An engine that holds weights of its own, which have to follow the policy's."""

    def update_weights(self) -> float | None:
        """Take over the policy's weights; called before the first rollout and after every change of them.

        Returns:
            The mean difference of a token's log-probability from the policy's on a fixed prompt, or None if the engine
            does not compare.

        Raises:
            ValueError: the engine does not sample from the policy now.
        """
        ...

    def rest(self) -> None:
        """Called when a window's responses are all there: what only sampling needs may leave the device."""
        ...

    def close(self) -> None:
        """Free everything; called when the run ends."""
        ...


@runtime_checkable
class AheadEngine(SeparateEngine, Protocol):
    """An engine on devices of its own, which can sample while the policy is trained."""

    def begin(self, prompts: Sequence[Prompt], num_generations: int, seeds: Sequence[int]) -> PendingResponses:
        """Begin what `generate` does, with the weights that the engine has now.

        At most one is being sampled, and neither `generate` nor `update_weights` is called before its result is there
        or it is cancelled.
        """
        ...


class EngineConfig(ABC):
    """A rollout engine as `model.rollout` names it: a class path with its settings, from any allowed package."""

    def check(self) -> None:  # noqa: B027
        """Called before the student is loaded; most engines have nothing to check.

        Raises:
            ValueError: the engine cannot be used here; the message says what to do.
        """

    def check_family(self, family: StudentFamily) -> None:  # noqa: B027
        """Called before the student is loaded; most engines sample from every family.

        Raises:
            ValueError: the engine does not compute what the policy computes.
        """

    @abstractmethod
    def start(self, student: Student, sampling: SamplingConfig) -> SeparateEngine:
        """The engine for a run, ready for `SeparateEngine.update_weights`.

        Args:
            student: the policy; its weights change from step to step.
            sampling: settings of sampling.

        Raises:
            ValueError: it cannot be started here; the message says what to do.
        """


def completions(
    samples: Sequence[Sample], groups: Sequence[Sequence[Response]], decode: Callable[[Tensor], str]
) -> list[Completion]:
    """The responses to each sample as rewards and evaluation read them, one after another.

    Args:
        samples: one per prompt.
        groups: the responses to each prompt.
        decode: token ids to text without special tokens.
    """
    return [
        Completion(
            sample=sample,
            text=decode(response.token_ids),
            token_ids=tuple(response.token_ids.tolist()),
            logprobs=tuple(response.logprobs.tolist()),
            finish_reason="stop" if response.finished else "length",
            staleness=response.staleness,
        )
        for sample, group in zip(samples, groups, strict=True)
        for response in group
    ]
