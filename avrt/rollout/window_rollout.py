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
from avrt.grpo.group_selection import DynamicSamplingConfig, select_groups, spread_in_any
from avrt.grpo.loss import DEFAULT_LOSS, LossConfig, Normalizer
from avrt.model.chunked_logprobs import DEFAULT_CHUNK_ROWS
from avrt.model.encoding import Prompt
from avrt.model.reference import ReferencePolicy
from avrt.model.student import Student
from avrt.model.token_logprobs import EmbeddedPrompt, LanguageModel, TokenLogprobs, token_logprobs
from avrt.rewards import RewardCallback, RewardTable, start_rewards
from avrt.rollout.engine import Response, RolloutEngine, SamplingConfig, completions
from avrt.rollout.groups import Generated, Groups, Sampled
from avrt.sample import Completion

Draw = Callable[[int], tuple[Sequence[Prompt], Sequence[int]]]
"""The prompts of so many further micro-batches on this device, and their epochs."""


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
        generated: everything that was rolled out for the window.
        kept: numbers of `prompts` among all prompts drawn for the window; all of them without dynamic sampling.
    """

    prompts: list[EmbeddedPrompt]
    responses: list[list[Response]]
    completions: list[Completion]
    rewards: RewardTable
    statistics: GroupStatistics
    normalizer: Normalizer
    ref_logprobs: list[Tensor] | None
    used: Tensor
    generated: Generated
    kept: list[int]
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
        dynamic_sampling: replaces groups without spread by further prompts; None for not.
        filter_groups: names of rewards; groups without spread in any of them have no part in the loss. None for not.
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
    dynamic_sampling: DynamicSamplingConfig | None = None
    filter_groups: Sequence[str] | None = None
    chunk_rows: int = DEFAULT_CHUNK_ROWS
    devices: Devices = Devices()
    timed: Callable[[str], AbstractContextManager[None]] = lambda phase: nullcontext()
    precision: Callable[[], AbstractContextManager[None]] = nullcontext

    @torch.no_grad()
    def run(
        self,
        window: Sequence[Prompt],
        epochs: Sequence[int],
        micro_batch_size: int,
        draw: Draw | None = None,
        sampled_ahead: list[list[Response]] | None = None,
    ) -> Rollout:
        """Roll out a window.

        Args:
            window: this device's prompts.
            epochs: of each prompt, the passes over the data before this one; every pass draws other responses.
            micro_batch_size: prompts that the reference scores at a time; the window is a multiple of it.
            draw: further prompts; needed for dynamic sampling. Called equally often on all devices.
            sampled_ahead: the responses to the window, if they are there already.
        """
        sampled = self._sample(window, epochs, sampled_ahead)
        # Without dynamic sampling every group is used, so rewards that wait for a server do so during this pass.
        ref_logprobs = None if self.dynamic_sampling else self._reference_logprobs(sampled, micro_batch_size)
        groups = self._scored(sampled)
        generated, kept = Generated.of(groups), list(range(len(groups)))
        if self.dynamic_sampling is not None:
            assert draw is not None
            groups, generated, kept = self._replace(groups, generated, self.dynamic_sampling, micro_batch_size, draw)
            ref_logprobs = self._reference_logprobs(groups, micro_batch_size)
        with self.timed("rewards"):
            weights = torch.tensor([float(reward.weight) for reward in self.rewards])
            statistics = device_advantages(groups.rewards, weights, self.num_generations, self.loss, self.devices)
        masks_truncated = self.loss.mask_truncated_completions
        used = torch.tensor([c.finish_reason == "stop" or not masks_truncated for c in groups.completions])
        if self.filter_groups:
            used &= self._spread(groups, self.filter_groups).repeat_interleave(self.num_generations)
        normalizer = step_normalizer(groups.completions, used, self.sampling.max_completion_length, self.devices)
        return Rollout(
            groups.prompts,
            groups.responses,
            groups.completions,
            groups.rewards,
            statistics,
            normalizer,
            ref_logprobs,
            used,
            generated,
            kept,
        )

    def _sample(
        self, window: Sequence[Prompt], epochs: Sequence[int], responses: list[list[Response]] | None = None
    ) -> Sampled:
        """Sample responses and start to score them with the rewards."""
        samples = [prompt.sample for prompt in window]
        with self.timed("embedding"), self.precision():
            prompts = self.student.embed(window)
        if responses is None:
            with self.timed("rollout"), self.precision():
                seeds = [stream_seed(self.sampling.seed, epoch, s.id) for epoch, s in zip(epochs, samples, strict=True)]
                responses = self.engine.generate(prompts, self.num_generations, seeds)
        done = completions(samples, responses, self.student.response_text)
        with self.timed("rewards"):
            return Sampled(prompts, responses, done, start_rewards(self.rewards, done))

    def _scored(self, sampled: Sampled) -> Groups:
        with self.timed("rewards"):
            return Groups(sampled.prompts, sampled.responses, sampled.completions, sampled.pending.result())

    def _replace(
        self, groups: Groups, generated: Generated, config: DynamicSamplingConfig, micro_batch_size: int, draw: Draw
    ) -> tuple[Groups, Generated, list[int]]:
        """Roll out further prompts until every device has groups with spread for the whole window, or up to the bound.

        Every device fills its own part of the window. All draw as many prompts as the one that lacks most needs.
        """
        size, kept = len(groups), list(range(len(groups)))
        while True:
            lacking = size - int(self._spread(groups, config.rewards).sum())
            most = int(self.devices.gather(torch.tensor([lacking])).max())
            drawn = len(generated.prompt_tokens)
            micro_batches = min(
                -(-most // micro_batch_size), (config.max_num_gen_batches * size - drawn) // micro_batch_size
            )
            if not micro_batches:
                return groups, generated, kept
            further = self._scored(self._sample(*draw(micro_batches)))
            generated += Generated.of(further)
            groups, kept = groups + further, [*kept, *range(drawn, drawn + len(further))]
            # Media features of groups that cannot be chosen any more are freed.
            chosen = select_groups(self._spread(groups, config.rewards), size)
            groups, kept = groups.take(chosen), [kept[i] for i in chosen]

    def _spread(self, groups: Groups, names: Sequence[str]) -> Tensor:
        return spread_in_any(groups.rewards.by_name, groups.rewards.total, names, self.num_generations)

    def _reference_logprobs(self, groups: Sampled | Groups, micro_batch_size: int) -> list[Tensor] | None:
        if self.reference is None:
            return None
        logprobs: list[Tensor] = []
        prompts, responses, banned = groups.prompts, groups.responses, self.student.banned_tokens
        with self.timed("reference"), self.precision(), self.reference.on(self.student.device) as reference:
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
