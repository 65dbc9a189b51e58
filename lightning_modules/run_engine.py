"""A run's rollout engine with weights of its own: it follows the policy, may sample one window ahead of training, and
leaves a saved run behind if it fails.

Sampling ahead: while the policy is trained on a window, the engine samples the next one, with the weights that it has.
These are as many optimizer steps old as a window has; `Response.staleness` says so, and the importance-sampling
correction weighs the loss by it (`avrt.grpo.sampling_correction`).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from lightning.pytorch import Callback

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

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SampledAhead:
    """Responses to a window that has not begun.

    Attributes:
        step: optimizer steps done when the weights were taken over.
        keys: of its prompts on this device, see `request_key`; from a checkpoint, of those on all devices.
        pending: one group of responses per key.
    """

    step: int
    keys: list[str]
    pending: PendingResponses

    def holds(self, keys: Sequence[str]) -> bool:
        return set(keys) <= set(self.keys)

    def groups(self, keys: Sequence[str]) -> list[list[Response]]:
        """The responses to some of the prompts.

        Raises:
            ValueError: they could not be sampled.
        """
        by_key = dict(zip(self.keys, self.pending.result(), strict=True))
        return [by_key[key] for key in keys]


@dataclass(frozen=True)
class Saved:
    """Responses from a checkpoint."""

    responses: list[list[Response]]

    def result(self) -> list[list[Response]]:
        return self.responses

    def ready(self, seconds: float) -> bool:
        return True

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
            self._engine = self._agreed(lambda: self.config.start(module.student, self.sampling))
            if self.ahead and not isinstance(self._engine, AheadEngine):
                raise ValueError(
                    f"model.sample_ahead: {type(self.config).__name__} cannot sample while the policy is trained; set "
                    "it to false, or choose an engine on other devices, such as avrt.rollout.vllm.VLLMServers"
                )
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
        keys = self._keys(window.prompts, window.epochs)
        ready = self._next if self._all_hold(keys) else None
        was_ahead = ready is not None
        if ready is None:
            self.follow()
            ready = self._begin(window.prompts, keys)
        with self.module.step_metrics.timed("rollout"):
            groups = self._agreed(lambda: ready.groups(keys))
        # After all devices have what they sampled. If it fails, this window's responses are still held, and saved.
        self.follow()
        self._look_ahead(window, keep=not was_ahead)
        staleness = self.module.global_step - ready.step
        return [[replace(response, staleness=staleness) for response in group] for group in groups]

    def _all_hold(self, keys: Sequence[str]) -> bool:
        """Whether all devices have the responses to their prompts, sampled or being sampled."""
        here = self._next is not None and self._next.holds(keys)
        return self.module.trainer.strategy.reduce_boolean_decision(here, all=True)

    def _look_ahead(self, window: Window, keep: bool) -> None:
        """Begin to sample the window after this one, unless the run ends before it.

        Args:
            keep: what is held is not this window's; it may be the next one's, in a run that resumed within a window.
        """
        max_steps = self.module.trainer.max_steps
        steps_left = max_steps < 0 or self.module.global_step + self.num_iterations < max_steps
        following = window.following() if steps_left else None
        if following is None:
            self._next = self._next if keep else None
            return
        keys = self._keys(*following)
        if not (self._all_hold(keys) and keep):
            begun = self._begin(following[0], keys)
            if keep:
                self.cancel()
            self._next = begun

    def _begin(self, prompts: Sequence[Prompt], keys: list[str]) -> SampledAhead:
        engine = self._engine
        assert isinstance(engine, AheadEngine)
        seeds = [int(key.partition("-")[0]) for key in keys]
        pending = self._agreed(lambda: engine.begin(prompts, self.num_generations, seeds))
        return SampledAhead(self.module.global_step, keys, pending)

    def _keys(self, prompts: Sequence[Prompt], epochs: Sequence[int]) -> list[str]:
        return [
            request_key(prompt, epoch, self.sampling, self.num_generations)
            for prompt, epoch in zip(prompts, epochs, strict=True)
        ]

    def drop_unfinished(self, seconds: float) -> None:
        """Wait at most so long for what is sampled ahead; drop it if it is not there then. On all devices."""
        here = self._next is None or self._next.pending.ready(seconds)
        if not self.module.trainer.strategy.reduce_boolean_decision(here, all=True):
            self.cancel()
            log.warning(
                "the next window's responses are not there after %g s; the checkpoint is saved without them, and a "
                "resumed run samples them again",
                seconds,
            )

    def state_dict(self) -> dict[str, Any] | None:
        """What is sampled ahead on all devices, which this waits for: a run that resumes trains on the same responses.

        None if there is nothing, or if the engine fails; the run then ends when the window begins. On all devices.
        """
        here = None
        if self._next is not None:
            try:
                here = list(zip(self._next.keys, self._next.pending.result(), strict=True))
            except Exception:  # noqa: BLE001 (it is raised where the window begins; other devices wait here)
                here = None
        parts = self._of_all_devices(here)
        if self._next is None or None in parts:
            return None
        return packed(self._next.step, dict(pair for part in parts for pair in part))

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
        """Stop sampling and free the engine. Needs no other device, so a run that ends by an error may call it."""
        engine, self._engine, self._weights_step = self._engine, None, None
        try:
            self.cancel()
        finally:
            if engine is not None:
                engine.close()

    def cancel(self) -> None:
        """Stop what is sampled ahead."""
        ahead, self._next = self._next, None
        if ahead is not None:
            ahead.pending.cancel()

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


def request_key(prompt: Prompt, epoch: int, sampling: SamplingConfig, num_generations: int) -> str:
    """Tells all that the responses to a prompt depend on, but the weights: its random stream, its tokens and media, and
    the settings of sampling. Two prompts with one key have the same responses."""
    seed = stream_seed(sampling.seed, epoch, prompt.sample.id)
    digest = hashlib.sha256()
    settings = (prompt.sample.id, sampling.temperature, sampling.max_completion_length, num_generations)
    rates = tuple(part.second_per_grid for part in prompt.media)
    digest.update(repr((settings, prompt.input_ids.tolist(), rates)).encode())
    for part in prompt.media:
        for tensor in (part.frames, part.waveform):
            digest.update(b"none" if tensor is None else repr(tuple(tensor.shape)).encode())
            if tensor is not None:
                digest.update(tensor.contiguous().numpy().tobytes())
    return f"{seed}-{digest.hexdigest()[:32]}"


def packed(step: int, groups: Mapping[str, Sequence[Response]]) -> dict[str, Any]:
    """Groups of responses by key, equally many in each, as few tensors for a checkpoint."""
    responses = [response for group in groups.values() for response in group]
    return {
        "step": step,
        "keys": list(groups),
        "lengths": torch.tensor([len(response.token_ids) for response in responses]),
        "token_ids": torch.cat([response.token_ids for response in responses]),
        "logprobs": torch.cat([response.logprobs for response in responses]),
        "finished": torch.tensor([response.finished for response in responses]),
    }


def unpacked(state: dict[str, Any]) -> SampledAhead:
    """What `packed` was made of."""
    lengths = state["lengths"].tolist()
    tokens, logprobs = state["token_ids"].split(lengths), state["logprobs"].split(lengths)
    # Copies: a view that is sent to other processes takes the whole tensor with it.
    responses = [
        Response(token_ids.clone(), values.clone(), finished)
        for token_ids, values, finished in zip(tokens, logprobs, state["finished"].tolist(), strict=True)
    ]
    size = len(responses) // len(state["keys"])
    groups = [responses[i : i + size] for i in range(0, len(responses), size)]
    return SampledAhead(state["step"], list(state["keys"]), Saved(groups))


class CloseEngine(Callback):
    """Closes the engine of a run that ends by an error; Lightning calls the module's own hook after a good end only."""

    def __init__(self, close: Callable[[], None]) -> None:
        self.close = close

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self.close()
