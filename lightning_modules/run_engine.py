"""A run's rollout engine with weights of its own: it follows the policy, may sample one window ahead of training, and
leaves a saved run behind if it fails.

Sampling ahead: while the policy is trained on a window, the engine samples the next one, with the weights that it has.
These are as many optimizer steps old as a window has; `Response.staleness` says so, and the importance-sampling
correction weighs the loss by it (`avrt.grpo.sampling_correction`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

from avrt.grpo.group_selection import DynamicSamplingConfig
from avrt.grpo.sampling_correction import SamplingCorrectionConfig
from avrt.model.encoding import Prompt
from avrt.model.token_logprobs import EmbeddedPrompt
from avrt.rollout.engine import AheadEngine, EngineConfig, PendingResponses, Response, SamplingConfig, SeparateEngine
from avrt.rollout.sampling_metrics import TRANSFER_DIFFERENCE
from avrt.rollout.window_rollout import stream_seed
from datamodules.windows import Window
from lightning_modules.callbacks.checkpoint import save_before_window
from lightning_modules.training import TrainingModule

T = TypeVar("T")

Key = tuple[int, str]
"""Epoch and id of a prompt's sample, from which its random stream is drawn."""


@dataclass(frozen=True)
class SampledAhead:
    """Responses to a window that has not begun.

    Attributes:
        step: optimizer steps done when the weights were taken over.
        keys: of its prompts on this device; from a checkpoint, of those on all devices.
        pending: one group of responses per key.
    """

    step: int
    keys: list[Key]
    pending: PendingResponses

    def holds(self, keys: Sequence[Key]) -> bool:
        return set(keys) <= set(self.keys)

    def groups(self, keys: Sequence[Key]) -> list[list[Response]]:
        """The responses to some of the prompts.

        Raises:
            ValueError: they could not be sampled.
        """
        return [self.pending.result()[self.keys.index(key)] for key in keys]


@dataclass(frozen=True)
class Saved:
    """Responses from a checkpoint."""

    responses: list[list[Response]]

    def result(self) -> list[list[Response]]:
        return self.responses

    def cancel(self) -> None:
        """There is nothing to stop."""


class RunEngine:
    """The engine of a run, from its first window on.

    Args:
        config: which one.
        module: the run's.
        sampling: settings of sampling.
        num_generations: responses per prompt, G.
        num_iterations: optimizer steps on each window.
        ahead: sample a window while the one before it is trained on.
    """

    def __init__(
        self,
        config: EngineConfig,
        module: TrainingModule,
        sampling: SamplingConfig,
        num_generations: int,
        num_iterations: int,
        ahead: bool,
    ) -> None:
        self.config = config
        self.module = module
        self.sampling = sampling
        self.num_generations = num_generations
        self.num_iterations = num_iterations
        self.ahead = ahead
        self._engine: SeparateEngine | None = None
        self._weights_step: int | None = None
        self._next: SampledAhead | None = None

    def generate(
        self, prompts: Sequence[EmbeddedPrompt], num_generations: int, seeds: Sequence[int]
    ) -> list[list[Response]]:
        """As `RolloutEngine.generate`; if it fails on one device, the run is saved and ends on all."""
        engine = self._engine
        assert engine is not None
        return self._agreed(lambda: engine.generate(prompts, num_generations, seeds))

    def follow(self) -> None:
        """Start the engine if it is not, and hand over the policy's weights if they have changed. On all devices."""
        module = self.module
        if self._engine is None:
            engine = self._agreed(lambda: self.config.start(module.student, self.sampling))
            if self.ahead and not isinstance(engine, AheadEngine):
                raise ValueError(
                    f"model.sample_ahead: {type(self.config).__name__} cannot sample while the policy is trained; set "
                    "it to false, or choose an engine on other devices, such as avrt.rollout.vllm.VLLMServers"
                )
            self._engine = engine
        if self._weights_step != module.global_step:
            with module.step_metrics.timed("weights"), module.precision_of_steps():
                difference = self._agreed(self._engine.update_weights)
            if difference is not None:
                module.step_metrics.add(TRANSFER_DIFFERENCE, difference)
            self._weights_step = module.global_step

    # ---- one window ahead -------------------------------------------------------------------------------------------

    def sampled_ahead(self, window: Window) -> list[list[Response]]:
        """A window's responses, and the start of the next one's. On all devices.

        The first window of a run, and of a pass over the data, is sampled when it begins.
        """
        keys = _keys(window.prompts, window.epochs)
        ready = self._take(keys)
        with self.module.step_metrics.timed("rollout"):
            if ready is None:
                self.follow()
                ready = self._begin(window.prompts, keys)
            groups = self._agreed(lambda: ready.groups(keys))
        self.follow()  # after all devices have what they sampled with the weights before
        self._look_ahead(window)
        staleness = self.module.global_step - ready.step
        return [[replace(response, staleness=staleness) for response in group] for group in groups]

    def _take(self, keys: Sequence[Key]) -> SampledAhead | None:
        """What was sampled ahead for a window, if all devices have it."""
        held = self._next is not None and self._next.holds(keys)
        if not self.module.trainer.strategy.reduce_boolean_decision(held, all=True):
            return None
        taken, self._next = self._next, None
        return taken

    def _look_ahead(self, window: Window) -> None:
        """Begin to sample the window after this one, unless the run ends before it."""
        trainer = self.module.trainer
        steps_left = trainer.max_steps < 0 or self.module.global_step + self.num_iterations < trainer.max_steps
        following = window.following() if steps_left else None
        if following is None:
            return
        keys = _keys(*following)
        # A run that resumes within a window has the next one's responses already.
        held = self._next is not None and self._next.holds(keys)
        if not trainer.strategy.reduce_boolean_decision(held, all=True):
            self._cancel()
            self._next = self._begin(following[0], keys)

    def _begin(self, prompts: Sequence[Prompt], keys: list[Key]) -> SampledAhead:
        assert isinstance(self._engine, AheadEngine)
        seeds = [stream_seed(self.sampling.seed, *key) for key in keys]
        pending = self._engine.begin(prompts, self.num_generations, seeds)
        return SampledAhead(self.module.global_step, keys, pending)

    def state_dict(self) -> dict[str, Any] | None:
        """What is sampled ahead on all devices, which this waits for: a run that resumes trains on the same responses.

        None if there is nothing, or if the engine fails; the run then ends when the window begins. On all devices.
        """
        here = None
        if self._next is not None:
            try:
                here = [(key, self._next.groups([key])[0]) for key in self._next.keys]
            except ValueError:
                here = None
        parts = self._of_all_devices(here)
        if self._next is None or None in parts:
            return None
        return packed(self._next.step, [pair for part in parts for pair in part])

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        self._next = None if state is None else unpacked(state)

    def _of_all_devices(self, value: Any) -> list[Any]:
        count = self.module.trainer.world_size
        values = [value] * count
        if count > 1:
            torch.distributed.all_gather_object(values, value)
        return values

    # ---- the end of a window and of the run -------------------------------------------------------------------------

    def rest(self) -> None:
        if self._engine is not None:
            self._engine.rest()

    def close(self) -> None:
        self._cancel()
        if self._engine is not None:
            self._engine.close()
        self._engine = self._weights_step = None

    def _cancel(self) -> None:
        if self._next is not None:
            self._next.pending.cancel()
        self._next = None

    def _agreed(self, call: Callable[[], T]) -> T:
        """The result of a call, once it has succeeded on all devices.

        Raises:
            ValueError: it has failed on one. The optimizer steps done are saved.
        """
        outcome: list[T] = []
        cause = None
        try:
            outcome = [call()]
        except ValueError as error:
            cause = error
        failures = self.module.gather_texts([] if cause is None else [f"{cause}"])
        if failures:
            raise ValueError(failures[0] + save_before_window(self.module.trainer)) from cause
        return outcome[0]


def check_sampling_ahead(
    engine: EngineConfig | None,
    correction: SamplingCorrectionConfig | None,
    dynamic_sampling: DynamicSamplingConfig | None,
) -> None:
    """Check the settings beside ``model.sample_ahead``.

    Raises:
        ValueError: they do not fit it.
    """
    if engine is None:
        raise ValueError(
            "model.sample_ahead: the built-in engine samples with the policy itself, which is being trained meanwhile; "
            "set model.rollout to an engine on other devices, such as avrt.rollout.vllm.VLLMServers"
        )
    if correction is None:
        raise ValueError(
            "model.sample_ahead: responses come from earlier weights than those that are trained; set "
            "model.sampling_correction, which weighs the loss by the difference"
        )
    if dynamic_sampling is not None:
        raise ValueError(
            "model.sample_ahead: with model.dynamic_sampling the next window begins where this one ends, which is "
            "known too late; set one of them to null (filter_groups goes with both)"
        )


def _keys(prompts: Sequence[Prompt], epochs: Sequence[int]) -> list[Key]:
    return [(epoch, prompt.sample.id) for prompt, epoch in zip(prompts, epochs, strict=True)]


def packed(step: int, groups: Sequence[tuple[Key, Sequence[Response]]]) -> dict[str, Any]:
    """Groups of responses, equally many in each, as few tensors for a checkpoint."""
    responses = [response for _, group in groups for response in group]
    return {
        "step": step,
        "keys": [list(key) for key, _ in groups],
        "lengths": torch.tensor([len(response.token_ids) for response in responses]),
        "token_ids": torch.cat([response.token_ids for response in responses]),
        "logprobs": torch.cat([response.logprobs for response in responses]),
        "finished": torch.tensor([response.finished for response in responses]),
    }


def unpacked(state: dict[str, Any]) -> SampledAhead:
    """What `packed` was made of."""
    lengths = state["lengths"].tolist()
    tokens, logprobs = state["token_ids"].split(lengths), state["logprobs"].split(lengths)
    responses = [Response(*fields) for fields in zip(tokens, logprobs, state["finished"].tolist(), strict=True)]
    keys = [(epoch, sample) for epoch, sample in state["keys"]]
    size = len(responses) // len(keys)
    groups = [responses[i : i + size] for i in range(0, len(responses), size)]
    return SampledAhead(state["step"], keys, Saved(groups))
