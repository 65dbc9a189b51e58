"""The rollout of one window of prompts: everything in a GRPO step that needs no gradient, done once. No trainer needed.

Shape letters: n prompts, G responses each, N = n * G, C tokens of a response.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from avrt.grpo.advantage import GroupStatistics, group_advantages, normalized_in_group
from avrt.grpo.loss import DEFAULT_LOSS, LossConfig, Normalizer
from avrt.model.chunked_logprobs import DEFAULT_CHUNK_ROWS
from avrt.model.encoding import Prompt
from avrt.model.reference import ReferencePolicy
from avrt.model.student import Student
from avrt.model.token_logprobs import EmbeddedPrompt, LanguageModel, TokenLogprobs, token_logprobs
from avrt.rewards import RewardCallback, RewardTable, compute_rewards
from avrt.rollout.engine import Response, RolloutEngine, SamplingConfig, completions
from avrt.sample import Completion


@dataclass(frozen=True)
class Devices:
    """The devices that work on one window together; the default is one device alone.

    Attributes:
        rank: this device's number, from 0 on.
        count: number of devices.
        gather: values ``[x, ...]`` of this device -> those of all devices ``[count * x, ...]``, by rank, on the host.
    """

    rank: int = 0
    count: int = 1
    gather: Callable[[Tensor], Tensor] = Tensor.cpu


@dataclass
class Rollout:
    """The responses to a window's prompts on this device, with their rewards and reference log-probabilities.

    Attributes:
        prompts: embedded prompts, length n.
        responses: G responses per prompt.
        completions: the same responses as rewards see them, length N.
        rewards: scores by reward, and their weighted sum.
        statistics: advantages ``[N]`` and group statistics.
        normalizer: totals of the optimizer step.
        ref_logprobs: ``[C]`` of each of the N responses under the reference policy, or None without one.
        used: bool ``[N]``, the responses that take part in the loss. The others are generated, scored and logged, and
            count in their group's advantages, but have neither policy gradient nor KL term.
        old_logprobs: ``[C]`` of each response under the policy that sampled, by the micro-batch's first prompt; filled
            in the first pass over the window.
    """

    prompts: list[EmbeddedPrompt]
    responses: list[list[Response]]
    completions: list[Completion]
    rewards: RewardTable
    statistics: GroupStatistics
    normalizer: Normalizer
    ref_logprobs: list[Tensor] | None
    used: Tensor
    old_logprobs: dict[int, Tensor] = field(default_factory=dict)


@dataclass
class WindowRollout:
    """Samples, rewards and scores a window of prompts.

    Attributes:
        student: embeds prompts and decodes responses.
        engine: samples with the student's current weights.
        rewards: score every completion.
        reference: the policy of the KL term; None without one.
        sampling: settings of the engine; temperature, token limit and seed are used here too.
        num_generations: responses per prompt, G.
        loss: the objective; how rewards become advantages, and whether truncated responses take part.
        chunk_rows: response tokens whose logits are held at once under the reference; 0 for all.
        devices: the devices that share the window.
        timed: context of each phase ``embedding``, ``rollout``, ``rewards``, ``reference``, to measure it.
        precision: context of the phases that run the student.
    """

    student: Student
    engine: RolloutEngine
    rewards: Sequence[RewardCallback]
    reference: ReferencePolicy | None
    sampling: SamplingConfig
    num_generations: int
    loss: LossConfig = DEFAULT_LOSS
    chunk_rows: int = DEFAULT_CHUNK_ROWS
    devices: Devices = Devices()
    timed: Callable[[str], AbstractContextManager[None]] = lambda phase: nullcontext()
    precision: Callable[[], AbstractContextManager[None]] = nullcontext

    @torch.no_grad()
    def run(self, window: Sequence[Prompt], epochs: Sequence[int], micro_batch_size: int) -> Rollout:
        """Roll out a window.

        Args:
            window: this device's prompts.
            epochs: of each prompt, the passes over the data before this one; every pass draws other responses.
            micro_batch_size: prompts that the reference scores at a time.
        """
        samples = [prompt.sample for prompt in window]
        with self.timed("embedding"), self.precision():
            prompts = self.student.embed(window)
        with self.timed("rollout"), self.precision():
            seeds = [stream_seed(self.sampling.seed, epoch, s.id) for epoch, s in zip(epochs, samples, strict=True)]
            responses = self.engine.generate(prompts, self.num_generations, seeds)
        done = completions(samples, responses, self.student.decode)
        with self.timed("rewards"):
            rewards = compute_rewards(self.rewards, done)
            weights = torch.tensor([float(reward.weight) for reward in self.rewards])
            statistics = device_advantages(rewards, weights, self.num_generations, self.loss, self.devices)
        with self.timed("reference"), self.precision():
            ref_logprobs = self._reference_logprobs(prompts, responses, micro_batch_size)
        used = torch.tensor([c.finish_reason == "stop" or not self.loss.mask_truncated_completions for c in done])
        normalizer = step_normalizer(done, used, self.sampling.max_completion_length, self.devices)
        return Rollout(prompts, responses, done, rewards, statistics, normalizer, ref_logprobs, used)

    def _reference_logprobs(
        self, prompts: list[EmbeddedPrompt], responses: list[list[Response]], micro_batch_size: int
    ) -> list[Tensor] | None:
        if self.reference is None:
            return None
        logprobs: list[Tensor] = []
        banned = self.student.banned_tokens
        with self.reference.on(self.student.device) as reference:
            for start in range(0, len(prompts), micro_batch_size):
                part = slice(start, start + micro_batch_size)
                scores = response_logprobs(
                    reference, prompts[part], responses[part], self.sampling.temperature, banned, self.chunk_rows
                )
                logprobs += [row[mask] for row, mask in zip(scores.logprobs, scores.mask, strict=True)]
        return logprobs


def response_logprobs(
    model: LanguageModel,
    prompts: Sequence[EmbeddedPrompt],
    responses: Sequence[Sequence[Response]],
    temperature: float,
    banned: Tensor,
    chunk_rows: int = DEFAULT_CHUNK_ROWS,
) -> TokenLogprobs:
    """Log-probabilities of sampled responses under a model, at the temperature at which they were sampled."""
    token_ids = [[response.token_ids for response in group] for group in responses]
    return token_logprobs(model, prompts, token_ids, temperature=temperature, banned=banned, chunk_rows=chunk_rows)


def device_advantages(
    rewards: RewardTable, weights: Tensor, num_generations: int, loss: LossConfig, devices: Devices
) -> GroupStatistics:
    """This device's advantages. The batch whose deviation may scale rewards is that of all devices.

    Args:
        rewards: this device's scores, N responses and K rewards. A response without a total gets advantage 0.
        weights: ``[K]``, of the rewards.
        num_generations: responses per prompt, G.
        loss: its `scale_rewards` and `multi_objective_aggregation` count.
        devices: the devices that share the window.
    """
    scores = torch.stack(list(rewards.by_name.values()), dim=1)
    scores = scores.masked_fill(rewards.total.isnan()[:, None], torch.nan)
    scale: str = loss.scale_rewards
    if loss.multi_objective_aggregation == "normalize_then_sum":
        scores, scale = normalized_in_group(scores, num_generations), "batch"
    of_all = group_advantages(devices.gather(scores * weights), num_generations, scale)
    groups = len(scores) // num_generations
    own = slice(devices.rank * groups, (devices.rank + 1) * groups)
    rows = slice(own.start * num_generations, own.stop * num_generations)
    return GroupStatistics(
        of_all.advantages[rows].to(rewards.total.dtype),
        of_all.group_std[own],
        of_all.zero_std[own],
        of_all.contributions[rows],
    )


def step_normalizer(
    done: Sequence[Completion], used: Tensor, max_completion_length: int, devices: Devices
) -> Normalizer:
    """The totals that the losses of the optimizer step are divided by.

    As in TRL, responses without part in the loss count as responses, with loss 0, and their tokens do not count.

    Args:
        done: this device's responses, length N.
        used: bool ``[N]``, see `Rollout`.
        max_completion_length: the token limit of a response.
        devices: the devices that share the window.
    """
    tokens = sum(len(completion.token_ids) for completion, use in zip(done, used.tolist(), strict=True) if use)
    tokens_per_device = float(devices.gather(torch.tensor([float(tokens)])).sum() / devices.count)
    return Normalizer(len(done), tokens, tokens_per_device, max_completion_length)


def stream_seed(seed: int, epoch: int, sample_id: str) -> int:
    """Seed of a prompt's own random stream: the same responses however prompts are spread over steps and devices."""
    digest = hashlib.sha256(f"{seed}/{epoch}/{sample_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
